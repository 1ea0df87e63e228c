#include <fcntl.h>
#include <unistd.h>
#include "plugin.h"

PLUGIN(AsynchFilePlugin, primitiveAsyncFileOpen)
{
    char byte;
    int fd = open("/dev/null", O_RDONLY | O_NONBLOCK);
    long got = fd < 0 ? -1 : read(fd, &byte, 1);
    if (fd >= 0)
        close(fd);
    return got;
}
