// Whether the server is there, and what it said of itself when it was.
//
// Owns the asking again while it is away. Must not know conversations.
import { get, key, watcher } from './api';
import type { Machine } from './types';

const AGAIN_MS = 1500;
const LOOK_MS = 20_000;

class Connection {
  state = $state<'starting' | 'there' | 'gone'>('starting');
  wantsKey = $state(false);
  /** A key was sent and refused. */
  keyRefused = $state(false);
  machine = $state.raw<Machine | null>(null);
  /** Called when the server is there, at first or again. */
  onThere: (() => void)[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    watcher.lost = () => this.#lost();
    watcher.refused = () => {
      this.keyRefused = key.get() !== null;
      this.wantsKey = true;
    };
  }

  async start(): Promise<void> {
    clearTimeout(this.#timer);
    const before = this.state;
    try {
      // A server that has no more place for requests is there all the same.
      this.machine = await get<Machine>('/api/machine');
      this.wantsKey = false;
      this.state = 'there';
      if (before !== 'there') for (const told of this.onThere) told();
    } catch {
      if (this.wantsKey) return;
      this.state = 'gone';
    }
    this.#timer = setTimeout(() => this.start(), this.state === 'gone' ? AGAIN_MS : LOOK_MS);
  }

  async useKey(secret: string, remember: boolean): Promise<void> {
    key.set(secret, remember);
    this.state = 'starting';
    await this.start();
  }

  #lost(): void {
    if (this.state === 'gone') return;
    this.state = 'gone';
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.start(), AGAIN_MS);
  }
}

export const connection = new Connection();
