// A conversation: its messages as a tree, the branch on show, and answers while they come.
//
// Owns what is said and when it is stored. Must not know how anything looks.
import { Failure, get, put } from './api';
import { connection } from './connection.svelte';
import { preferences } from './preferences.svelte';
import { stream, type Delta } from './stream';
import type { Meta, Role, Sampling, StoredChat, StoredMessage } from './types';

/** While an answer is written, it is stored this often. */
const SAVE_MS = 4000;
/** A page that is not seen gets no frames. */
const UNSEEN_MS = 250;

let n_keys = 0;

export class Message {
  readonly key = ++n_keys;
  /** As the server numbers it; 0 until it is stored. */
  id = 0;
  readonly created: number;
  content = $state('');
  reasoning = $state('');
  meta = $state.raw<Meta>({});
  live = $state<'no' | 'waiting' | 'thinking' | 'writing'>('no');
  failure = $state.raw<Failure | null>(null);
  /** When the reasoning began, while it lasts. */
  thinkingSince = $state(0);
  /** Tokens of this answer so far, and how fast they come. */
  n_tokens = $state(0);
  tokens_per_s = $state(0);

  constructor(
    readonly role: Role,
    readonly parent: Message | null,
    stored?: StoredMessage,
  ) {
    this.created = stored?.created_ms ?? Date.now();
    if (!stored) return;
    this.id = stored.id;
    this.content = stored.content;
    this.reasoning = stored.reasoning_content ?? '';
    this.meta = stored.meta ?? {};
  }

  /** What the person typed, without the files behind it. */
  get typed(): string {
    return this.meta.typed === undefined ? this.content : this.content.slice(0, this.meta.typed);
  }
}

export class Conversation {
  id = $state<string | null>(null);
  title = $state('');
  messages = $state.raw<Message[]>([]);
  leaf = $state.raw<Message | null>(null);
  /** How answers of this conversation are made. */
  sampling = $state<Sampling>({ ...preferences.sampling });
  answering = $state.raw<Message | null>(null);
  /** Called when the server has it, or has more of it. */
  onStored: () => void = () => {};

  #stop: AbortController | null = null;
  #saving: Promise<void> = Promise.resolve();

  readonly path = $derived.by(() => {
    const path: Message[] = [];
    for (let message = this.leaf; message; message = message.parent) path.push(message);
    return path.reverse();
  });

  readonly #children = $derived.by(() => {
    const children = new Map<Message | null, Message[]>();
    for (const message of this.messages) {
      const known = children.get(message.parent);
      if (known) known.push(message);
      else children.set(message.parent, [message]);
    }
    return children;
  });

  static of(chat: StoredChat): Conversation {
    const conversation = new Conversation();
    const known = new Map<number, Message>();
    conversation.id = chat.id;
    conversation.title = chat.title;
    conversation.sampling = { ...preferences.sampling, ...chat.settings };
    conversation.messages = chat.messages.map((stored) => {
      const message = new Message(stored.role, known.get(stored.parent_id) ?? null, stored);
      known.set(stored.id, message);
      return message;
    });
    conversation.leaf = known.get(chat.current_id) ?? null;
    return conversation;
  }

  static async open(id: string): Promise<Conversation> {
    return Conversation.of(await get<StoredChat>(`/api/conversations/${id}`));
  }

  branches(message: Message): Message[] {
    return this.#children.get(message.parent) ?? [message];
  }

  /** Shows the branch of a message, down to its latest end. */
  show(message: Message): void {
    let leaf = message;
    for (let next = this.#children.get(leaf); next; next = this.#children.get(leaf)) leaf = next[next.length - 1]!;
    this.leaf = leaf;
    if (this.id && leaf.id) {
      put('PATCH', `/api/conversations/${this.id}`, { current_id: leaf.id }).catch(() => {});
    }
  }

  #add(message: Message): void {
    this.messages = [...this.messages, message];
    this.leaf = message;
  }

  /**
   * Says something behind `parent`, and has it answered. What was said is stored before it is asked: where that fails,
   * nothing has changed and the error comes back.
   */
  async say(content: string, meta: Meta, parent: Message | null): Promise<void> {
    const message = new Message('user', parent);
    message.content = content;
    message.meta = meta;
    await this.#store(message);
    this.#add(message);
    void this.answer(message);
  }

  /** Has `question` answered anew, or `begun` gone on with. Failures are shown at the answer. */
  async answer(question: Message, begun?: Message): Promise<void> {
    if (this.answering) return;
    const message = begun ?? new Message('assistant', question);
    const before = { content: message.content, reasoning: message.reasoning };
    message.failure = null;
    message.live = 'waiting';
    message.n_tokens = 0;
    message.tokens_per_s = 0;
    if (!begun) this.#add(message);
    this.answering = message;
    this.#stop = new AbortController();
    const pen = new Pen(message);
    const saver = setInterval(() => void this.#store(message).catch(() => {}), SAVE_MS);
    let finish: Meta['finish'] = 'stop';
    try {
      await stream(this.#request(question, begun), this.#stop.signal, (delta) => {
        finish = (delta.finish as Meta['finish']) ?? finish;
        pen.write(delta);
      });
    } catch (error) {
      finish = this.#stop.signal.aborted ? 'stopped' : 'broken';
      if (finish === 'broken') message.failure = error instanceof Failure ? error : new Failure('server', String(error));
    }
    clearInterval(saver);
    pen.end(finish);
    this.answering = null;
    this.#stop = null;
    const said = message.content !== before.content || message.reasoning !== before.reasoning;
    if (!said && !begun && finish !== 'stop') {
      // Nothing came: the question stands, and the failure with it.
      if (finish === 'stopped') this.#forget(message);
      return;
    }
    await this.#store(message).catch((error) => (message.failure ??= error));
    this.onStored();
  }

  stop(): void {
    this.#stop?.abort();
  }

  /** Stores what there is of an answer when the page is left. */
  leave(): void {
    if (this.answering) void this.#store(this.answering, true).catch(() => {});
  }

  /** Takes an answer that holds nothing out again. */
  #forget(message: Message): void {
    this.messages = this.messages.filter((other) => other !== message);
    if (this.leaf === message) this.leaf = message.parent;
  }

  retry(message: Message): void {
    if (!message.parent) return;
    const empty = !message.content && !message.reasoning;
    if (empty) this.#forget(message);
    void this.answer(message.parent);
  }

  resume(message: Message): void {
    if (message.parent) void this.answer(message.parent, message);
  }

  keepSettings(): void {
    if (this.id) put('PATCH', `/api/conversations/${this.id}`, { settings: this.sampling }).catch(() => {});
  }

  #request(question: Message, begun?: Message): unknown {
    const messages: unknown[] = [];
    for (let at: Message | null = question; at; at = at.parent) {
      // An answer of which nothing came is no turn.
      if (at.role === 'assistant' && !at.content) continue;
      messages.push({ role: at.role, content: at.content });
    }
    const { system, thinking, ...sampling } = this.sampling;
    if (system.trim()) messages.push({ role: 'system', content: system });
    messages.reverse();
    const wish = Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== null));
    if (begun?.content) {
      messages.push({ role: 'assistant', content: begun.content, reasoning_content: begun.reasoning || undefined, prefix: true });
    } else if (thinking === 'off') {
      wish.thinking = { type: 'disabled' } as never;
    } else if (thinking !== 'auto') {
      wish.thinking = { type: 'enabled' } as never;
      wish.reasoning_effort = thinking as never;
    }
    return { model: connection.machine?.model.name ?? 'model', messages, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true }, ...wish };
  }

  /** Stores a message, or what is new of it; one at a time, since the first makes what others name. */
  #store(message: Message, leaving = false): Promise<void> {
    const work = async (): Promise<void> => {
      if (connection.machine && !connection.machine.stores_chats) return;
      if (message.role === 'assistant' && !message.content && !message.reasoning) return;
      const body = { content: message.content, reasoning_content: message.reasoning || undefined, meta: message.meta };
      if (message.id) {
        await put('PATCH', `/api/conversations/${this.id}/messages/${message.id}`, body, leaving);
        return;
      }
      const fresh = { ...body, role: message.role, parent_id: message.parent?.id ?? 0 };
      if (!this.id) {
        const chat = await put<StoredChat>('POST', '/api/conversations', { settings: this.sampling, messages: [fresh] });
        this.id = chat.id;
        this.title = chat.title;
        message.id = chat.messages[0]!.id;
        this.onStored();
        return;
      }
      const kept = await put<{ messages: StoredMessage[] }>('POST', `/api/conversations/${this.id}/messages`, { messages: [fresh] }, leaving);
      message.id = kept.messages[0]!.id;
    };
    const done = this.#saving.then(work);
    this.#saving = done.catch(() => {});
    return done;
  }
}

/** Writes an answer down: parts are gathered and shown once per frame, however fast they come. */
class Pen {
  #content = '';
  #reasoning = '';
  #begun = performance.now();
  #first = 0;
  #last = 0;
  /** Tokens that came with the first part. */
  #nFirst = 0;
  #meta: Meta = {};
  #pending = false;

  constructor(readonly message: Message) {}

  write(delta: Delta): void {
    const now = performance.now();
    if (delta.content || delta.reasoning) {
      // A part may hold several tokens.
      this.message.n_tokens = delta.usage?.completion_tokens ?? this.message.n_tokens + 1;
      if (!this.#first) {
        this.#first = now;
        this.#nFirst = this.message.n_tokens;
      }
      this.#last = now;
    }
    this.#content += delta.content ?? '';
    this.#reasoning += delta.reasoning ?? '';
    if (delta.usage) this.#meta.usage = delta.usage;
    if (!this.#pending) {
      this.#pending = true;
      const flush = () => this.#flush();
      if (document.hidden) setTimeout(flush, UNSEEN_MS);
      else requestAnimationFrame(flush);
    }
  }

  #flush(): void {
    this.#pending = false;
    const message = this.message;
    if (this.#reasoning) {
      if (message.live === 'waiting') message.thinkingSince = Date.now();
      message.live = 'thinking';
      message.reasoning += this.#reasoning;
      this.#reasoning = '';
    }
    if (this.#content) {
      this.#thought();
      message.live = 'writing';
      message.content += this.#content;
      this.#content = '';
    }
    const seconds = (this.#last - this.#first) / 1000;
    if (seconds > 0.5) message.tokens_per_s = (message.n_tokens - this.#nFirst) / seconds;
  }

  #thought(): void {
    const message = this.message;
    if (!message.thinkingSince) return;
    this.#meta.thinking_ms = Date.now() - message.thinkingSince;
    message.thinkingSince = 0;
  }

  end(finish: Meta['finish']): void {
    this.#flush();
    this.#thought();
    const message = this.message;
    const n = this.#meta.usage?.completion_tokens ?? message.n_tokens;
    const seconds = (this.#last - this.#first) / 1000;
    const speed = n > this.#nFirst && seconds > 0 ? { tokens_per_s: (n - this.#nFirst) / seconds } : {};
    const first = this.#first ? { first_token_ms: Math.round(this.#first - this.#begun) } : {};
    message.meta = { ...message.meta, ...this.#meta, ...speed, ...first, finish };
    message.live = 'no';
  }
}
