"""Writes a corpus of hard, mixed text: every character of Unicode in several surroundings, numbers, emoji, white
space, broken UTF-8 (as U+FFFD), then files from the folders given, up to a size in MB.

python make_corpus.py corpus.txt MB FOLDER...
"""
import os
import random
import sys

EXTENSIONS = (".rs", ".py", ".md", ".html", ".txt", ".json", ".c", ".h")


def characters(rng: random.Random) -> str:
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    # Planes 4 to 16 have almost nothing but unassigned and private characters: a sample is enough.
    chars = [c for c in chars if ord(c) < 0x40000 or rng.random() < 0.002]
    rng.shuffle(chars)
    return "".join(rng.choice(["{}", " {}", "{} ", "a{}", "1{}b", "\n{}", "  {}", ".{}", "中{}", "{0}{0}"]).format(c)
                   for c in chars)


def numbers(rng: random.Random) -> str:
    forms = ["{}", "{:,}", "0x{:x}", "{:e}", "-{}.{}", "{}/{}", "Ⅻ{}", "٣{}", "²{}"]
    return " ".join(rng.choice(forms).format(rng.randrange(10 ** rng.randrange(1, 25)), rng.randrange(1000))
                    for _ in range(40_000))


def spaces_and_emoji(rng: random.Random) -> str:
    pieces = [" ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u200b", "👩‍👩‍👧‍👦", "🏳️‍🌈", "😀", "e\u0301", "한국어",
              "'s", "'LL", "don't", "!!", "...", "<think>", "</think>", "<|im_end|>", "<｜User｜>", "x", "Ab", "été"]
    return "".join(rng.choice(pieces) for _ in range(200_000))


def broken(rng: random.Random) -> str:
    return rng.randbytes(1_000_000).decode("utf-8", "replace")


def files(folders: list[str], n_bytes: int, rng: random.Random) -> str:
    paths = [os.path.join(root, name) for folder in folders for root, _, names in os.walk(folder)
             for name in sorted(names) if name.endswith(EXTENSIONS)]
    paths.sort()
    rng.shuffle(paths)
    parts, total = [], 0
    for path in paths:
        if total >= n_bytes:
            break
        data = open(path, "rb").read(400_000)
        parts.append(data.decode("utf-8", "replace"))
        total += len(data)
    return "".join(parts)


def main(out: str, megabytes: str, *folders: str) -> None:
    rng = random.Random(7)
    text = characters(rng) + numbers(rng) + spaces_and_emoji(rng) + broken(rng)
    text += files(list(folders), int(megabytes) * 1_000_000 - len(text.encode()), rng)
    open(out, "wb").write(text.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
