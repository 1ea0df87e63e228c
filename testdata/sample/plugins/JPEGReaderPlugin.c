#include "plugin.h"

PLUGIN(JPEGReaderPlugin, primitiveIdctInt)
{
    volatile int dc = 512; /* a block with nothing but its DC coefficient is flat */
    return dc / 8 + 128;
}
