#include <sys/random.h>
#include "plugin.h"

PLUGIN(CroquetPlugin, primitiveGatherEntropy)
{
    unsigned char bytes[16];
    return getrandom(bytes, sizeof bytes, 0) == sizeof bytes ? 16 : -1;
}
