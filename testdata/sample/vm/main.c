/* The sample VM: command line, then the image's program. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "sample.h"

/* OpenSmalltalk's OSVMError numbers, which are its exit codes. */
enum { UnsupportedParameter = 10, FailedToFindImage = 13 };

#if defined(__x86_64__)
#define VM_TARGET_CPU "x86_64"
#elif defined(__aarch64__)
#define VM_TARGET_CPU "aarch64"
#else
#error "the sample VM knows x86_64 and aarch64 only"
#endif

#ifdef __GLIBC__
#define VM_TARGET_LIBC "glibc"
#else
#define VM_TARGET_LIBC "musl"
#endif

static char vmPath[PATH_MAX];    /* the executable's folder */
static char imageName[PATH_MAX];
static int passed, failed;

static void check(const char *what, int ok)
{
    if (ok)
        passed++;
    else
        failed++;
    if (!ok)
        fprintf(stderr, "check failed: %s\n", what);
}

static void findExecutablePath(void)
{
    ssize_t n = readlink("/proc/self/exe", vmPath, sizeof vmPath - 1);
    vmPath[n > 0 ? n : 0] = 0;
    char *slash = strrchr(vmPath, '/');
    if (slash)
        *slash = 0;
}

static int isVMOption(const char *argument)
{
    static const char *const names[] = {"headless", "no-interactive", "interactive", "headfull",
                                        "nosound", "vm-display-null", "trace-module-loads", "full-trace"};
    argument += argument[1] == '-' ? 2 : 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(argument, names[i]) == 0) {
            traceModuleLoading |= strstr(names[i], "trace") != NULL;
            return 1;
        }
    return 0;
}

static int findImagesIn(const char *folder)
{
    int found = 0;
    DIR *dir = opendir(folder);
    if (!dir)
        return 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        const char *extension = strrchr(entry->d_name, '.');
        if (!extension || strcmp(extension, ".image") != 0)
            continue;
        int n = snprintf(imageName, sizeof imageName, "%s/%s", folder, entry->d_name);
        found += n > 0 && n < (int)sizeof imageName;
    }
    closedir(dir);
    return found;
}

/* Without an image on the command line: startup.image beside the executable,
   or the only image there and in the working directory. */
static int findStartupImage(void)
{
    char here[PATH_MAX];
    struct stat status;
    int n = snprintf(imageName, sizeof imageName, "%s/startup.image", vmPath);
    if (n < (int)sizeof imageName && stat(imageName, &status) == 0)
        return 1;
    int found = findImagesIn(vmPath);
    if (getcwd(here, sizeof here) && strcmp(here, vmPath) != 0)
        found += findImagesIn(here);
    return found == 1;
}

__attribute__((noinline)) static long recurse(long n, volatile char *caller)
{
    volatile char frame[64];
    frame[0] = caller[0];
    return n ? recurse(n - 1, frame) + frame[0] : 0;
}

/* The image's program: after the first line, a module and a primitive a line. */
static void runImage(struct Image *image, char **required)
{
    char *rest = NULL, *line = strtok_r(image->heap, "\n", &rest);
    if (!line || strcmp(line, "sample image") != 0) {
        fprintf(stderr, "%s holds no program for the sample VM: use testdata/sample/sample.image\n", imageName);
        exit(1);
    }
    while ((line = strtok_r(NULL, "\n", &rest)) != NULL) {
        char *primitive = strchr(line, ' ');
        if (!primitive)
            continue;
        *primitive++ = 0;
        int result = callPrimitive(line, primitive);
        if (result >= 0)
            check(line, result);
        for (char **name = required; *name; name++)
            if (result >= 0 && strcmp(*name, line) == 0)
                **name = 0;
    }
    for (; *required; required++)
        if (**required) {
            fprintf(stderr, "module %s not found\n", *required);
            check("required module", 0);
        }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    findExecutablePath();
    setPluginPath(vmPath);

    for (argc--, argv++; argc > 0 && **argv == '-' && strcmp(*argv, "--") != 0; argc--, argv++)
        if (!isVMOption(*argv)) {
            fprintf(stderr, "unknown option: %s\n", *argv);
            return UnsupportedParameter;
        }
    if (argc > 0 && strcmp(*argv, "--") != 0)
        snprintf(imageName, sizeof imageName - 6, "%s", *argv);
    else if (!findStartupImage())
        return FailedToFindImage;
    if (!strstr(imageName, ".image"))
        strcat(imageName, ".image");
    if (argc > 0)
        argv++;

    struct Image image;
    readImage(imageName, &image);
    ioInitHeartbeat();

    printf("Sample VM " VM_VERSION " " VM_NAME " [%s Spur 64-bit] linux " VM_TARGET_CPU " " VM_TARGET_LIBC "\n",
           interpreterName);
    printInternalModules();
    printf("image format %d, %zu bytes of heap\n", image.format, image.heapSize);
    check("image format", image.format == ImageFormat);
    check("engine", interpret() == 42);

    int wait = 0;
    char **required = argv;
    for (; *argv; argv++)
        if (strcmp(*argv, "--wait") == 0)
            wait = 1;
        else if (strncmp(*argv, "--selftest-recursion=", 21) == 0)
            check("recursion", recurse(atol(*argv + 21), (volatile char *)"\1") == atol(*argv + 21));
    char **names = required;
    for (argv = required; *argv; argv++) /* what is left are names of modules */
        if (**argv != '-')
            *names++ = *argv;
    *names = NULL;
    runImage(&image, required);

    const struct timespec moment = {0, 1000 * 1000};
    for (int i = 0; heartbeats() < 3 && i < 5000; i++)
        nanosleep(&moment, NULL);
    check("heartbeat", heartbeats() >= 3);

    if (wait) {
        printf("waiting for a signal\n");
        for (;;)
            pause();
    }
    if (failed) {
        printf("sample image failed: %d of %d checks\n", failed, passed + failed);
        return 1;
    }
    printf("sample image ran: %d checks passed\n", passed);
    return 0;
}
