// Text files that go along with a message.
//
// Owns how they stand in the message's text, and which files are text at all.
import type { FileNote, Meta } from './types';

export interface Attached {
  name: string;
  text: string;
}

export const FILE_BYTES_MAX = 2 << 20;

/** Reads a file; null if it is no text or is too large. */
export async function read(file: File): Promise<Attached | null> {
  if (file.size > FILE_BYTES_MAX) return null;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
    return text.includes('\0') ? null : { name: file.name, text: text.replace(/\r\n?/g, '\n') };
  } catch {
    return null;
  }
}

/** A fence that the text itself does not hold. */
function fence(text: string): string {
  let longest = 2;
  for (const found of text.matchAll(/`+/g)) longest = Math.max(longest, found[0].length);
  return '`'.repeat(longest + 1);
}

/** What is said: the typed text, and behind it each file under its name. */
export function join(typed: string, files: Attached[]): { content: string; meta: Meta } {
  if (files.length === 0) return { content: typed, meta: {} };
  let content = typed;
  const notes: FileNote[] = files.map(({ name, text }) => {
    const marks = fence(text);
    content += `${content ? '\n\n' : ''}${name}:\n${marks}\n`;
    const from = content.length;
    content += text;
    const to = content.length;
    content += `\n${marks}`;
    return { name, from, to };
  });
  return { content, meta: { typed: typed.length, files: notes } };
}

/** The files of a message, as they were attached. */
export function split(content: string, meta: Meta): Attached[] {
  return (meta.files ?? []).map(({ name, from, to }) => ({ name, text: content.slice(from, to) }));
}
