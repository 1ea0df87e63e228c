#include "plugin.h"

PLUGIN(InternetConfigPlugin, primitiveGetMacintoshFileTypeAndCreatorFrom)
{
    return 0; /* as everywhere but on a Macintosh */
}
