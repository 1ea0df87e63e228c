#include "plugin.h"

PLUGIN(LargeIntegers, primDigitMultiplyNegative)
{
    volatile unsigned long a = 0xfedcba9876543210, b = 0x0123456789abcdef;
    __extension__ unsigned __int128 product = (unsigned __int128)a * b;
    return (unsigned long)(product >> 64) == 0x121fa00ad77d742 ? 64 : -1;
}
