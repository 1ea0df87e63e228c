#include "plugin.h"

PLUGIN(DropPlugin, primitiveDropRequestFileName)
{
    return 0; /* nothing is ever dropped on a headless VM */
}
