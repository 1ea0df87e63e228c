#include "plugin.h"

PLUGIN(MiscPrimitivePlugin, primitiveStringHash)
{
    long hash = 0;
    for (const char *c = "pharo"; *c; c++)
        hash = (hash * 1664525 + *c) & 0xfffffff;
    return hash;
}
