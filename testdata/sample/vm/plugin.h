/* What a plugin sees of the VM, and the VM of a plugin. */
#ifndef PLUGIN_H
#define PLUGIN_H

#include <stddef.h>

#define PROXY_VERSION 1

typedef void (*Function)(void);

struct Proxy {
    int version;
    void (*note)(const char *text); /* a remark printed beside the primitive's result */
    Function (*ioLoadFunctionFrom)(const char *primitive, const char *plugin);
};

/* One row of an internal plugin's table. Three pointers, as in OpenSmalltalk:
   whoever looks for built-in plugins in a stripped executable finds them here. */
struct Export {
    const char *plugin;
    const char *primitive;
    Function address;
};

#ifdef SQUEAK_BUILTIN_PLUGIN
#define EXPORT(type) static type
#define INT_EXT "(i)"
#define EXPORTS(Name, prim)                                \
    const struct Export Name##_exports[] = {               \
        {#Name, "getModuleName", (Function)getModuleName}, \
        {#Name, #prim, (Function)prim},                    \
        {#Name, "setInterpreter", (Function)setInterpreter}, \
        {NULL, NULL, NULL}};
#else
#define EXPORT(type) __attribute__((visibility("default"))) type
#define INT_EXT "(e)"
#define EXPORTS(Name, prim)
#endif

/* PLUGIN(Name, primitive) opens a plugin's file; the primitive answers a
   number, negative when it fails. */
#define PLUGIN(Name, prim)                                                \
    static const struct Proxy *vm __attribute__((unused));                \
    EXPORT(long) prim(void);                                              \
    EXPORT(const char *) getModuleName(void)                              \
    {                                                                     \
        return #Name " Sample." VM_VERSION " " INT_EXT;                   \
    }                                                                     \
    EXPORT(long) setInterpreter(const struct Proxy *proxy)                \
    {                                                                     \
        vm = proxy;                                                       \
        return proxy->version == PROXY_VERSION;                           \
    }                                                                     \
    EXPORTS(Name, prim)                                                   \
    EXPORT(long) prim(void)

#endif
