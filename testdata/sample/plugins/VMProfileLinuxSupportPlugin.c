#include <link.h>
#include "plugin.h"

static int count(struct dl_phdr_info *info, size_t size, void *modules)
{
    (void)info;
    (void)size;
    ++*(long *)modules;
    return 0;
}

PLUGIN(VMProfileLinuxSupportPlugin, primitiveExecutableModules)
{
    long modules = 0;
    dl_iterate_phdr(count, &modules);
    return modules > 0 ? 1 : -1;
}
