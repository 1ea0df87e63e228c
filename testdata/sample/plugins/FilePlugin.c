#include <fcntl.h>
#include "plugin.h"

PLUGIN(FilePlugin, primitiveFileStdioHandles)
{
    /* As in OpenSmalltalk: the name of a plugin that may be left out. */
    if (!vm->ioLoadFunctionFrom("secHasFileAccess", "SecurityPlugin"))
        vm->note("no SecurityPlugin");
    long handles = 0;
    for (int fd = 0; fd < 3; fd++)
        handles |= (fcntl(fd, F_GETFD) >= 0) << fd;
    return handles;
}
