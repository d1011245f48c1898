// The conversations that the server keeps: their list, search, and what is done with them as a whole.
//
// Must not know what is in a conversation.
import { get, put, send } from './api';
import { connection } from './connection.svelte';
import type { Hit, Summary } from './types';

const PAGE = 100;

class History {
  list = $state.raw<Summary[]>([]);
  hasMore = $state(false);
  /** The one that was forgotten last, while it can be brought back. */
  forgotten = $state.raw<Summary | null>(null);
  hits = $state.raw<Hit[] | null>(null);
  #asked = 0;

  get stores(): boolean {
    return connection.machine?.stores_chats ?? true;
  }

  async load(): Promise<void> {
    if (!this.stores) return;
    const n = Math.max(PAGE, this.list.length);
    const page = await get<{ data: Summary[]; has_more: boolean }>(`/api/conversations?limit=${Math.min(n, 500)}`);
    this.list = page.data;
    this.hasMore = page.has_more;
  }

  async loadMore(): Promise<void> {
    const page = await get<{ data: Summary[]; has_more: boolean }>(`/api/conversations?limit=${PAGE}&offset=${this.list.length}`);
    const known = new Set(this.list.map((chat) => chat.id));
    this.list = [...this.list, ...page.data.filter((chat) => !known.has(chat.id))];
    this.hasMore = page.has_more;
  }

  async rename(id: string, title: string): Promise<void> {
    await put('PATCH', `/api/conversations/${id}`, { title });
    await this.load();
  }

  async pin(id: string, pinned: boolean): Promise<void> {
    await put('PATCH', `/api/conversations/${id}`, { pinned });
    await this.load();
  }

  async forget(chat: Summary): Promise<void> {
    await put('DELETE', `/api/conversations/${chat.id}`);
    this.forgotten = chat;
    await this.load();
  }

  async restore(): Promise<Summary | null> {
    const chat = this.forgotten;
    if (!chat) return null;
    await put('POST', `/api/conversations/${chat.id}/restore`);
    this.forgotten = null;
    await this.load();
    return chat;
  }

  /** Finds words in all conversations; an answer that a later question has overtaken is dropped. */
  async search(words: string): Promise<void> {
    const asked = ++this.#asked;
    if (!words.trim()) {
      this.hits = null;
      return;
    }
    const found = await get<{ data: Hit[] }>(`/api/search?limit=100&q=${encodeURIComponent(words)}`);
    if (asked === this.#asked) this.hits = found.data;
  }

  /** A conversation, or all of them, as the text of a file. */
  async export(id: string | null, form: 'json' | 'markdown'): Promise<string> {
    if (id) return (await send(`/api/conversations/${id}/export?format=${form}`)).text();
    const conversations: unknown[] = [];
    for (let offset = 0, more = true; more; offset += PAGE) {
      const page = await get<{ data: Summary[]; has_more: boolean }>(`/api/conversations?limit=${PAGE}&offset=${offset}`);
      for (const chat of page.data) {
        const one = await get<{ conversations: unknown[] }>(`/api/conversations/${chat.id}/export`);
        conversations.push(...one.conversations);
      }
      more = page.has_more;
    }
    return JSON.stringify({ conversations }, null, 1);
  }

  /** Takes in the text of a file that was exported. */
  async import(text: string): Promise<Summary[]> {
    let body: unknown = { markdown: text };
    if (text.trimStart().startsWith('{')) body = JSON.parse(text);
    const taken = await put<{ data: Summary[] }>('POST', '/api/conversations/import', body);
    await this.load();
    return taken.data;
  }
}

export const history = new History();

/** Hands a text to the browser as a file. */
export function download(name: string, text: string, kind: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: kind }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
