#include "plugin.h"

PLUGIN(SurfacePlugin, ioRegisterSurface)
{
    static void *surfaces[4];
    surfaces[0] = surfaces;
    return surfaces[0] ? 1 : -1;
}
