/* The sample VM's own parts. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include "plugin.h"

enum { ImageFormat = 68021, ImageHeaderSize = 128 };

struct Image {
    int format;
    char *heap; /* NUL-terminated */
    size_t heapSize;
};

/* readImage ends the process, with the real VM's messages, when it cannot. */
void readImage(const char *path, struct Image *image);

/* Starts the 2 ms heartbeat. */
void ioInitHeartbeat(void);
unsigned long heartbeats(void);

/* The name of the execution engine, and what it makes of a program answering 42. */
extern const char interpreterName[];
long interpret(void);

extern int traceModuleLoading;
/* Sets where external plugins are looked for. */
void setPluginPath(const char *folder);
void printInternalModules(void);
/* Calls a primitive, prints what came out. Answers 1 for success, 0 for
   failure, -1 when there is no such module. */
int callPrimitive(const char *plugin, const char *primitive);

#endif
