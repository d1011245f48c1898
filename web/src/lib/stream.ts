// Server-sent events of a chat completion, as they come.
import { Failure, send, watcher } from './api';
import type { Usage } from './types';

export interface Delta {
  content?: string;
  reasoning?: string;
  finish?: string;
  usage?: Usage;
}

interface Chunk {
  choices?: { delta?: { content?: string; reasoning_content?: string }; finish_reason?: string | null }[];
  usage?: Usage;
  error?: { message?: string };
}

function delta(chunk: Chunk): Delta {
  if (chunk.error) throw new Failure('server', chunk.error.message ?? '');
  const choice = chunk.choices?.[0];
  return {
    content: choice?.delta?.content || undefined,
    reasoning: choice?.delta?.reasoning_content || undefined,
    finish: choice?.finish_reason ?? undefined,
    usage: chunk.usage,
  };
}

/** Asks for an answer and hands on its parts. A stream that ends without saying so was broken off. */
export async function stream(body: unknown, signal: AbortSignal, take: (delta: Delta) => void): Promise<void> {
  const response = await send('/v1/chat/completions', { method: 'POST', body: JSON.stringify(body), signal });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    let piece: ReadableStreamReadResult<string>;
    try {
      piece = await reader.read();
    } catch (error) {
      if (signal.aborted) throw error;
      watcher.lost();
      throw new Failure('gone', String(error));
    }
    if (piece.done) throw new Failure('gone', 'the answer was broken off');
    // Whole lines only; what is left waits for the next piece.
    const lines = (rest + piece.value).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith('data: ')) continue;
      const data = line.slice(6);
      if (data === '[DONE]') return;
      take(delta(JSON.parse(data) as Chunk));
    }
  }
}
