#include "plugin.h"

PLUGIN(SecurityPlugin, secHasFileAccess)
{
    return 1;
}
