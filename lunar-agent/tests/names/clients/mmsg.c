/* `mmsg SERVER ID NAME...`: asks for the IPv4 address of each name, all by one sendmmsg, and takes the answers by recvmmsg.
 * Prints the last four bytes of each, its address, in the order in which they came. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { MOST = 32, ROOM = 512 };

static size_t question(unsigned char *at, int id, const char *name)
{
    unsigned char head[12] = { id >> 8, id, 1, 0, 0, 1 }, *end = at + 12;
    memcpy(at, head, 12);
    while (*name) {
        size_t label = strcspn(name, ".");
        *end++ = label;
        memcpy(end, name, label);
        end += label;
        name += label + (name[label] == '.');
    }
    memcpy(end, "\0\0\1\0\1", 5);
    return end + 5 - at;
}

int main(int count, char **args)
{
    static unsigned char bytes[MOST][ROOM];
    struct mmsghdr all[MOST];
    struct iovec parts[MOST];
    struct sockaddr_in server = { .sin_family = AF_INET, .sin_port = htons(53) };
    int names = count - 3, fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (names < 1 || names > MOST || !inet_aton(args[1], &server.sin_addr))
        return 2;
    memset(all, 0, sizeof all);
    for (int i = 0; i < names; i++) {
        parts[i] = (struct iovec){ bytes[i], question(bytes[i], atoi(args[2]) + i, args[3 + i]) };
        all[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1, .msg_name = &server, .msg_namelen = sizeof server };
    }
    if (sendmmsg(fd, all, names, 0) != names)
        return 3;
    for (int got = 0; got < names;) {
        for (int i = 0; i < names; i++) {
            parts[i].iov_len = ROOM;
            all[i].msg_hdr.msg_name = NULL;
        }
        int more = recvmmsg(fd, all, names - got, MSG_WAITFORONE, NULL);
        if (more < 1)
            return 4;
        for (int i = 0; i < more; i++) {
            unsigned char *end = bytes[i] + all[i].msg_len - 4;
            printf("%d.%d.%d.%d\n", end[0], end[1], end[2], end[3]);
        }
        got += more;
    }
    return 0;
}
