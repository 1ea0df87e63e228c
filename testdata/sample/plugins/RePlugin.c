#include <regex.h>
#include "plugin.h"

PLUGIN(RePlugin, primPCREExec)
{
    regex_t pattern;
    if (regcomp(&pattern, "^ph.r+o$", REG_EXTENDED | REG_NOSUB) != 0)
        return -1;
    int matches = regexec(&pattern, "pharo", 0, NULL, 0) == 0;
    regfree(&pattern);
    return matches ? 1 : -1;
}
