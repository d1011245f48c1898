// Requests to the server, and what goes wrong with them.
//
// Owns the key that is sent along and the one form of all failures. Must not show anything.

const KEY = 'minke.key';

/** Why a request failed, in a form that can be put into words in any language. */
export class Failure extends Error {
  constructor(
    readonly kind: 'gone' | 'key' | 'context' | 'busy' | 'missing' | 'refused' | 'server',
    message: string,
    readonly facts: { n_prompt?: number; n_context?: number; wait_s?: number } = {},
  ) {
    super(message);
  }
}

export const key = {
  get: (): string | null => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY),
  set(value: string, remember: boolean): void {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    (remember ? localStorage : sessionStorage).setItem(KEY, value);
  },
};

/** Who wants to know how requests fare: the line that says whether the server is there. */
export const watcher: { heard: () => void; lost: () => void; refused: () => void } = {
  heard: () => {},
  lost: () => {},
  refused: () => {},
};

async function failure(response: Response): Promise<Failure> {
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  const message: string = error.message ?? `${response.status} ${response.statusText}`;
  if (error.code === 'context_length_exceeded') {
    return new Failure('context', message, { n_prompt: error.n_prompt_tokens, n_context: error.n_ctx });
  }
  switch (response.status) {
    case 401:
      return new Failure('key', message);
    case 404:
      return new Failure('missing', message);
    case 429:
    case 503:
      return new Failure('busy', message, { wait_s: Number(response.headers.get('retry-after')) || 2 });
    default:
      return new Failure(response.status >= 500 ? 'server' : 'refused', message);
  }
}

/** Sends a request; what comes back is an answer of success. */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const secret = key.get();
  if (secret) headers.set('authorization', `Bearer ${secret}`);
  if (init.body) headers.set('content-type', 'application/json');
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    watcher.lost();
    throw new Failure('gone', String(error));
  }
  watcher.heard();
  if (response.ok) return response;
  const problem = await failure(response);
  if (problem.kind === 'key') watcher.refused();
  throw problem;
}

export async function get<T>(path: string): Promise<T> {
  return (await (await send(path)).json()) as T;
}

/** Sends JSON; an answer without content is undefined. */
export async function put<T>(method: 'POST' | 'PATCH' | 'DELETE', path: string, body?: unknown, keepalive = false): Promise<T> {
  const init: RequestInit = { method, keepalive };
  if (body !== undefined) init.body = JSON.stringify(body);
  const response = await send(path, init);
  return (response.status === 204 ? undefined : await response.json()) as T;
}
