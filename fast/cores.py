"""Rows of a chat shared out to the cores of a CPU.

Products with few weights do not keep two cores busy, so a small model makes more tokens when each
core has a chat of its own: the toy model 1.45 to 2 times as many. A large model's weights would be
read once a core, so it keeps all its rows together.
"""
from concurrent.futures import ThreadPoolExecutor


class Shares:
    """Rows that talk as those of one chat do, in `parts` chats that run at the same time."""

    def __init__(self, new_chat, sample_ids, parts: int):
        """new_chat(sample ids) -> a chat; parts: how many, a divisor of the number of rows, because
        chats of one shape share their compiled programs."""
        self.size = len(sample_ids) // parts
        self.chats = [new_chat(share) for share in self.shares(sample_ids)]

    def shares(self, rows):
        """What belongs to each chat, of something with one item a row."""
        return [rows[i:i + self.size] for i in range(0, len(rows), self.size)]

    def reserve(self, texts, max_new_tokens: int):
        """As Chat.reserve."""
        for chat in self.chats:
            chat.reserve(texts, max_new_tokens)

    def turn(self, texts, max_new_tokens: int, stop=(), keep_newest=False):
        """As Chat.turn -> [(text, reason)]."""
        turn = lambda chat, share: chat.turn(share, max_new_tokens, stop, keep_newest=keep_newest)
        with ThreadPoolExecutor(len(self.chats)) as pool:
            return [answer for part in pool.map(turn, self.chats, self.shares(texts))
                    for answer in part]

    @property
    def rows(self):
        """As Chat.rows."""
        return [row for chat in self.chats for row in chat.rows]

    @property
    def dropped(self):
        """As Chat.dropped."""
        return [n for chat in self.chats for n in chat.dropped]
