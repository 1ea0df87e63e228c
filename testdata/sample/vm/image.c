/* Reads an image: a 64-bit Spur header, then the heap. README.md has the layout. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "sample.h"

static int refuse(const char *reason)
{
    fprintf(stderr, "%s\n", reason);
    exit(1);
}

static size_t readFully(int fd, void *buffer, size_t size)
{
    size_t done = 0;
    ssize_t n;
    while (done < size && (n = read(fd, (char *)buffer + done, size - done)) > 0)
        done += n;
    return done;
}

void readImage(const char *path, struct Image *image)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        /* OpenSmalltalk exits with errno as perror leaves it, which is not
           always what open set: see README.md. */
        perror("sqImageFileOpen open");
        exit(errno);
    }
    struct {
        uint32_t format, headerSize;
        uint64_t dataSize, baseAddress, specialObjects;
        char rest[ImageHeaderSize - 32];
    } header = {0};
    size_t got = readFully(fd, &header, sizeof header);
    if (header.format != ImageFormat) {
        printf("This interpreter (vers. %d) cannot read image file (vers. %d).\n"
               "Press CR to quit...", ImageFormat, (int)header.format);
        fflush(stdout);
        getchar();
        exit(1);
    }
    if (got != sizeof header || header.headerSize != ImageHeaderSize || header.dataSize > 1 << 30)
        refuse("Read failed or premature end of image file");
    image->format = header.format;
    image->heapSize = header.dataSize;
    image->heap = calloc(header.dataSize + 1, 1);
    if (!image->heap)
        refuse("out of memory");
    if (readFully(fd, image->heap, image->heapSize) != image->heapSize)
        refuse("Read failed or premature end of image file");
    if (header.specialObjects - header.baseAddress >= header.dataSize)
        refuse("the special objects lie outside the heap");
    close(fd);
}
