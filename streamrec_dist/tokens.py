"""The vocabulary: one tied table of pad, bos, then `levels * codes` level-offset code tokens."""

PAD = 0
BOS = 1
#: Token of code c at level j (counted from 0): FIRST_CODE + j * codes + c.
FIRST_CODE = 2
