#include "plugin.h"

PLUGIN(StarSqueakPlugin, primitiveEvaporateRate)
{
    volatile long patch = 1000;
    return patch * 95 / 100;
}
