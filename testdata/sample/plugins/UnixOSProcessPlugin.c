#include <sys/wait.h>
#include <unistd.h>
#include "plugin.h"

PLUGIN(UnixOSProcessPlugin, primitiveForkSqueakWithoutSigHandler)
{
    if (!vm->ioLoadFunctionFrom("primitiveFileStdioHandles", "FilePlugin"))
        return -1;
    int status = -1;
    pid_t child = fork();
    if (child == 0)
        _exit(7);
    return child > 0 && waitpid(child, &status, 0) == child ? WEXITSTATUS(status) : -1;
}
