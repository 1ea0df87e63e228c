#include <sys/socket.h>
#include <unistd.h>
#include "plugin.h"

PLUGIN(SocketPlugin, primitiveSocketCreate)
{
    int pair[2];
    char byte = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        return -1;
    int ok = write(pair[0], "p", 1) == 1 && read(pair[1], &byte, 1) == 1 && byte == 'p';
    close(pair[0]);
    close(pair[1]);
    return ok ? 1 : -1;
}
