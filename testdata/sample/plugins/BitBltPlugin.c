#include "plugin.h"

PLUGIN(BitBltPlugin, primitiveCopyBits)
{
    volatile unsigned char form[8] = {0x18, 0x3c, 0x7e, 0xff, 0xff, 0x7e, 0x3c, 0x18};
    long bits = 0;
    for (int y = 0; y < 8; y++)
        bits += __builtin_popcount(form[y] ^ 0xff);
    return bits;
}
