/* An application that knows nothing of the interceptor: `names FIRST COUNT SUFFIX` asks for each name and connects to
 * it at once; prints the provider's line of each, or what went wrong. By glibc or musl, whichever it is built with. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *call(const char *name, char *line, size_t room)
{
    struct addrinfo wish = { .ai_socktype = SOCK_STREAM }, *info;
    int failed = getaddrinfo(name, "80", &wish, &info);
    if (failed)
        return gai_strerror(failed);
    int fd = socket(info->ai_family, SOCK_STREAM, 0);
    failed = connect(fd, info->ai_addr, info->ai_addrlen);
    freeaddrinfo(info);
    size_t have = 0;
    while (!failed && (!have || line[have - 1] != '\n')) {
        ssize_t more = read(fd, line + have, room - have);
        failed = more <= 0;
        have += failed ? 0 : more;
    }
    close(fd);
    line[have] = 0;
    return failed ? "no line\n" : line;
}

int main(int count, char **args)
{
    if (count != 4)
        return 2;
    long first = atol(args[1]), end = first + atol(args[2]);
    for (long i = first; i < end; i++) {
        char name[300], line[300];
        snprintf(name, sizeof name, "n%ld.%s", i, args[3]);
        fputs(call(name, line, sizeof line - 1), stdout);
    }
    return 0;
}
