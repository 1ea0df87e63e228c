#include <dlfcn.h>
#include "plugin.h"

PLUGIN(SqueakSSL, primitiveCreate)
{
    static const char *const names[] = {"libssl.so.3", "libssl.so.1.1", "libssl.so"};
    for (int i = 0; i < 3; i++) {
        void *ssl = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!ssl)
            continue;
        int found = dlsym(ssl, "TLS_method") != NULL;
        vm->note(names[i]);
        dlclose(ssl);
        return found ? 1 : -1;
    }
    vm->note("no libssl");
    return 0;
}
