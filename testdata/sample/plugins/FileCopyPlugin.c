#include <stdio.h>
#include <string.h>
#include "plugin.h"

PLUGIN(FileCopyPlugin, primitiveFileCopyNamedTo)
{
    char from[] = "pharo", to[sizeof from] = "";
    FILE *source = fmemopen(from, sizeof from, "r"), *target = fmemopen(to, sizeof to, "w");
    for (int c; source && target && (c = getc(source)) > 0;)
        putc(c, target);
    if (source)
        fclose(source);
    if (target)
        fclose(target);
    return strcmp(from, to) == 0 ? (long)strlen(to) : -1;
}
