"""From ranges of a text's characters to its tokens."""
import numpy as np


def tokens_in(spans, text, ids, tokenizer):
    """Which of the tokens begin in one of the character ranges [(start, end)] -> bool (T,).

    ids: (T,), the last tokens of the text, of which the front may be left out. So tokens are
    counted from the text's end backwards, and in bytes, because they are made of bytes:

        text "x = é", spans [(4, 5)]       the é is bytes 4 and 5 of 6
        ids of " = é", of 2, 1 and 2 bytes, begin at bytes 1, 3 and 4      -> [no, no, yes]
    """
    to_byte = lambda n: len(text[:n].encode("utf-8", "surrogatepass"))
    sizes = [len(tokenizer.decode_bytes([t])) for t in ids]
    starts = to_byte(len(text)) - np.cumsum(sizes[::-1])[::-1]
    chosen = np.zeros(len(ids), bool)
    for first, end in spans:
        chosen |= (starts >= to_byte(first)) & (starts < to_byte(end))
    return chosen
