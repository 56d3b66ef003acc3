"""float8: a byte for each number, four bits of it the exponent and three the mantissa."""

from dataclasses import dataclass

import torch

from everlong.storage.codecs.base import Codec

STORED = torch.float8_e4m3fn
MOST = torch.finfo(STORED).max


@dataclass(frozen=True)
class Float8(Codec):
    """Keys and values rounded to float8."""

    name = "float8"

    def fields(self):
        """Keys, then values."""
        yield (self.heads, self.tokens, self.key_dim), STORED
        yield (self.heads, self.tokens, self.value_dim), STORED

    def fill(self, fields, k, v):
        """Round; what is too large becomes the largest number."""
        fields[0].copy_(k.clamp(-MOST, MOST))
        fields[1].copy_(v.clamp(-MOST, MOST))

    def restored(self, fields):
        """The rounded numbers."""
        return fields[0].to(self.dtype), fields[1].to(self.dtype)
