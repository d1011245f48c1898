// What the server says and hears, as far as the page uses it. The description of all of it is /openapi.json.

export type Role = 'system' | 'user' | 'assistant' | 'tool';

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_cache_hit_tokens: number;
  completion_tokens_details?: { reasoning_tokens?: number };
}

/** A file that stands in a message's text, from one place to another. */
export interface FileNote {
  name: string;
  from: number;
  to: number;
}

/** What the page keeps with a message. */
export interface Meta {
  finish?: 'stop' | 'length' | 'tool_calls' | 'stopped' | 'broken';
  usage?: Usage;
  tokens_per_s?: number;
  first_token_ms?: number;
  thinking_ms?: number;
  /** Where what the person typed ends and the files begin. */
  typed?: number;
  files?: FileNote[];
}

export interface StoredMessage {
  id: number;
  parent_id: number;
  role: Role;
  content: string;
  reasoning_content?: string;
  meta?: Meta;
  created_ms: number;
}

export interface Summary {
  id: string;
  title: string;
  updated_ms: number;
  n_messages: number;
  pinned: boolean;
  current_id: number;
}

export interface StoredChat extends Summary {
  settings?: Partial<Sampling>;
  messages: StoredMessage[];
}

export interface Hit {
  conversation_id: string;
  title: string;
  message_id: number;
  role: Role;
  snippet: string;
}

export type Effort = 'auto' | 'off' | 'low' | 'medium' | 'high';

/** How an answer is to be made; null leaves it to the model's own defaults. */
export interface Sampling {
  system: string;
  thinking: Effort;
  temperature: number | null;
  top_p: number | null;
  top_k: number | null;
  min_p: number | null;
  repetition_penalty: number | null;
  max_tokens: number | null;
  seed: number | null;
}

export interface Machine {
  model: { name: string; n_context: number; can_think: boolean; generation: Record<string, unknown> | null };
  stores_chats: boolean;
  uptime_s: number;
  memory: { name: string; bytes: number }[];
  cache: { block_tokens: number; n_blocks: number; n_held: number; n_kept: number };
  tokens: {
    prompt_computed: number;
    prompt_cached: number;
    prompt_restored: number;
    completion: number;
    drafted: number;
    accepted: number;
  };
  requests: { age_s: number; prompt_tokens: number; completion_tokens: number }[];
  n_running: number;
  n_waiting: number;
  n_running_max: number;
  n_requests_max: number;
  history: {
    at_s: number[];
    prompt_tokens_per_s: number[];
    completion_tokens_per_s: number[];
    running: number[];
    waiting: number[];
    blocks_held: number[];
    blocks_kept: number[];
  };
}

export interface RunSummary {
  id: string;
  name: string;
  recipe: string;
  started: string;
  is_running: boolean;
}

export interface RunCurves extends RunSummary {
  n_steps: number;
  last: Record<string, unknown> | null;
  curves: Record<string, [number, number][]>;
}
