/* The JIT of the sample VM: it generates two instructions. Like Cog's it needs
   memory that is writable and executable at once. */
#include <string.h>
#include <sys/mman.h>
#include "sample.h"

const char interpreterName[] = "Cog";

#if defined(__x86_64__)
static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42,%eax; ret */
#elif defined(__aarch64__)
static const unsigned int code[] = {0x52800540, 0xd65f03c0}; /* mov w0,#42; ret */
#else
#error "the sample VM knows x86_64 and aarch64 only"
#endif

long interpret(void)
{
    const size_t size = 4096;
    char *zone = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zone == MAP_FAILED)
        return -1;
    memcpy(zone, code, sizeof code);
    __builtin___clear_cache(zone, zone + sizeof code);
    int (*method)(void);
    memcpy(&method, &zone, sizeof method);
    long result = method();
    munmap(zone, size);
    return result;
}
