/* What this machine can do at most: a websocket server that sends every message back and does nothing else.
 *
 * One thread, one epoll, all messages of a read answered in one write. It speaks to load.c alone: the answer to its
 * Sec-WebSocket-Key is a constant.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM (1 << 18)

static const char welcome[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";

typedef struct {
    int fd, is_open;
    size_t size;
    unsigned char *data;
} Connection;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Answer what is whole, keep the rest; tell whether the connection lives. */
static int on_data(Connection *c) {
    static unsigned char out[ROOM];
    ssize_t got = recv(c->fd, c->data + c->size, ROOM - c->size, 0);
    if (got <= 0) return 0;
    c->size += (size_t)got;
    if (!c->is_open) {
        if (c->size < 4 || memcmp(c->data + c->size - 4, "\r\n\r\n", 4)) return 1;
        c->size = 0;
        c->is_open = 1;
        return send(c->fd, welcome, sizeof welcome - 1, MSG_NOSIGNAL) > 0;
    }
    size_t at = 0, made = 0;
    while (c->size - at >= 6) {
        unsigned char *p = c->data + at;
        size_t length = p[1] & 127, head = length == 126 ? 8 : 6;
        if (length == 127 || (p[0] & 15) == 8) return 0;
        if (length == 126) length = (size_t)p[2] << 8 | p[3];
        if (c->size - at < head + length) break;
        out[made] = p[0];
        memcpy(out + made + 1, p + 1, head - 5);
        out[made + 1] &= 127;
        made += head - 4;
        for (size_t i = 0; i < length; i++) out[made + i] = p[head + i] ^ p[head - 4 + (i & 3)];
        made += length;
        at += head + length;
    }
    memmove(c->data, c->data + at, c->size - at);
    c->size -= at;
    return !made || send(c->fd, out, made, MSG_NOSIGNAL) == (ssize_t)made;
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0), one = 1;
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1024) < 0) fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    printf("listening on %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) {
                c = calloc(1, sizeof *c);
                c->fd = accept(listener, NULL, NULL);
                if (c->fd < 0) fail("accept");
                c->data = malloc(ROOM);
                setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.ptr = c;
                epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
            } else if (!on_data(c)) {
                close(c->fd);
                free(c->data);
                free(c);
            }
        }
    }
}
