"""The hand on a slider: what follows a picture waits until it rests."""

from __future__ import annotations

import time
from collections import OrderedDict

REST = 0.25  # seconds without a move
GRACE = 0.1  # seconds of them after a picture, however long it took

# The page's own part, as `js` of an event: a picture that another one follows asks for no measures, which spares the
# next one two calls on its way. A promise that nobody keeps ends such a chain of events.
MOVED = "(...values) => { window.moved = performance.now(); return values; }"
AT_REST = f"""async (...values) => {{
    const moved = window.moved;
    const left = moved + {1000 * REST:.0f} - performance.now();
    await new Promise(rested => setTimeout(rested, Math.max(left, {1000 * GRACE:.0f})));
    return moved === window.moved ? values : new Promise(() => {{}});
}}"""


class Hand:
    """Knows when a control was last moved over each photograph: figures wait until the hand rests.

    Without this, figures of a picture that is already old would take the processor from the next one.
    """

    KEPT = 256  # photographs

    def __init__(self) -> None:
        self.moves: OrderedDict[str, float] = OrderedDict()

    def moved(self, key: str) -> None:
        self.moves[key] = time.monotonic()
        self.moves.move_to_end(key)
        while len(self.moves) > self.KEPT:
            self.moves.popitem(last=False)

    def rests(self, key: str) -> bool:
        """Waits for the rest. False where a newer move came meanwhile, whose figures will follow."""
        last = self.moves.get(key, -REST)
        time.sleep(max(0.0, last + REST - time.monotonic()))
        return self.moves.get(key, last) <= last
