#include "plugin.h"

PLUGIN(JoystickTabletPlugin, primitiveGetTabletParameters)
{
    return 0; /* no tablet */
}
