#include <sys/stat.h>
#include "plugin.h"

PLUGIN(FileAttributesPlugin, primitiveFileExists)
{
    struct stat status;
    return stat("/", &status) == 0 && S_ISDIR(status.st_mode) ? 1 : -1;
}
