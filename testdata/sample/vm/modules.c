/* Finds modules: beside the executable first, then among the built-in ones. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "sample.h"

#define INTERNAL_PLUGIN(Name) extern const struct Export Name##_exports[];
#include "sqInternalPlugins.inc"
#undef INTERNAL_PLUGIN

#define INTERNAL_PLUGIN(Name) Name##_exports,
static const struct Export *const pluginExports[] = {
#include "sqInternalPlugins.inc"
    NULL};
#undef INTERNAL_PLUGIN

int traceModuleLoading = 0;
static const char *pluginPath;
static char remark[80];

void setPluginPath(const char *folder) { pluginPath = folder; }

void printInternalModules(void)
{
    printf("built-in modules:");
    for (int i = 0; pluginExports[i]; i++)
        printf(" %s", pluginExports[i]->plugin);
    printf("\n");
}

/* Answers 1 and a handle; 0 when there is no such file; -1 when there is one
   that does not load. */
static int openExternal(const char *plugin, void **handle)
{
    static const char *const patterns[] = {"%s/%s.so", "%s/lib%s.so"};
    char file[PATH_MAX];
    for (int i = 0; i < 2; i++) {
        int n = snprintf(file, sizeof file, patterns[i], pluginPath, plugin);
        if (n < 0 || n >= (int)sizeof file || access(file, F_OK) != 0)
            continue;
        *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
        if (*handle)
            return 1;
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
    return 0;
}

static const struct Export *findInternal(const char *plugin)
{
    for (int i = 0; pluginExports[i]; i++)
        if (strcmp(pluginExports[i]->plugin, plugin) == 0)
            return pluginExports[i];
    return NULL;
}

static Function findFunction(void *handle, const struct Export *exports, const char *name)
{
    if (handle)
        return (Function)dlsym(handle, name);
    for (; exports->plugin; exports++)
        if (strcmp(exports->primitive, name) == 0)
            return exports->address;
    return NULL;
}

static void note(const char *text) { snprintf(remark, sizeof remark, " (%s)", text); }

static Function ioLoadFunctionFrom(const char *primitive, const char *plugin)
{
    const struct Export *exports = findInternal(plugin);
    return exports ? findFunction(NULL, exports, primitive) : NULL;
}

int callPrimitive(const char *plugin, const char *primitive)
{
    static const struct Proxy proxy = {PROXY_VERSION, note, ioLoadFunctionFrom};
    void *handle = NULL;
    int external = openExternal(plugin, &handle);
    const struct Export *exports = external ? NULL : findInternal(plugin);
    if (!external && !exports) {
        if (traceModuleLoading)
            fprintf(stderr, "Failed to load module: %s\n", plugin);
        return -1;
    }
    printf("  %s %s %s: ", plugin, external ? "external" : "internal", primitive);
    long result = -1;
    remark[0] = 0;
    if (handle || exports) {
        const char *(*name)(void) = (const char *(*)(void))findFunction(handle, exports, "getModuleName");
        long (*init)(const struct Proxy *) =
            (long (*)(const struct Proxy *))findFunction(handle, exports, "setInterpreter");
        long (*call)(void) = (long (*)(void))findFunction(handle, exports, primitive);
        if (name && init && call && strncmp(name(), plugin, strlen(plugin)) == 0 && init(&proxy))
            result = call();
    }
    if (result < 0)
        printf("failed%s\n", remark);
    else
        printf("%ld%s\n", result, remark);
    return result >= 0;
}
