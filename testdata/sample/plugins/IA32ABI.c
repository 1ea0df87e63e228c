#include <stdlib.h>
#include "plugin.h"

PLUGIN(IA32ABI, primCalloc)
{
    volatile char *alien = calloc(64, 1);
    if (!alien)
        return -1;
    long size = alien[63] == 0 ? 64 : -1;
    free((void *)alien);
    return size;
}
