/* A websocket load generator: one thread, one epoll, as many connections as asked for.
 *
 *   load PORT PATH CONNECTIONS DEPTH SECONDS REQUEST-HEX            calls: each connection keeps DEPTH messages under way
 *   load PORT PATH CONNECTIONS BATCH SECONDS REQUEST-HEX fanout     one more connection sends the request, BATCH times in
 *                                                                   one write, when each of the others has got BATCH frames
 *   load PORT PATH CONNECTIONS 0 SECONDS ""                         opens them, says "ready", holds them for SECONDS
 *
 * Prints "start" when the connections are open and warm, "stop" when the time is over, then one line of JSON: messages
 * received between the two, seconds, the fewest and the most of one connection, and percentiles of the latency in
 * microseconds (from the write to the whole reply).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RING 1024
#define BUCKETS 4096

typedef struct {
    int fd;
    uint64_t skip;           /* bytes of a payload that are still to come */
    unsigned char head[10];  /* a header that is not complete */
    int have;
    uint64_t sent[RING];     /* when each message under way was written */
    unsigned first, next;
    uint64_t messages;
} Connection;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* 64 buckets an octave: within 1.6 %. */
static uint64_t histogram[BUCKETS];

static int bucket_of(uint64_t v) {
    int shift = 0;
    while (v >= 128) {
        v >>= 1;
        shift++;
    }
    int bucket = shift * 64 + (int)v;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double bucket_value(int bucket) {
    if (bucket < 128) return bucket;
    int shift = bucket / 64 - 1;
    return (double)((uint64_t)(bucket - shift * 64) << shift);
}

static double percentile(double share, uint64_t total) {
    uint64_t seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen >= share * total) return bucket_value(i);
    }
    return 0;
}

static int open_connection(int port, const char *path) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) fail("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char request[1024];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
                          "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0\r\n"
                          "Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\nCache-Control: no-cache\r\n\r\n",
                          path, port);
    if (write(fd, request, (size_t)length) != length) fail("write");
    /* Byte by byte: what follows the header is a frame already. */
    char answer[4096];
    int have = 0;
    while (have < 4 || memcmp(answer + have - 4, "\r\n\r\n", 4)) {
        if (have == sizeof answer || read(fd, answer + have, 1) != 1) fail("handshake");
        have++;
    }
    if (memcmp(answer, "HTTP/1.1 101", 12)) {
        fprintf(stderr, "%.*s", have, answer);
        exit(1);
    }
    return fd;
}

/* Give how many frames `data` completes. */
static int count_frames(Connection *c, const unsigned char *data, uint64_t size) {
    int frames = 0;
    uint64_t at = 0;
    while (at < size) {
        if (c->skip) {
            uint64_t n = c->skip < size - at ? c->skip : size - at;
            at += n;
            if (!(c->skip -= n)) frames++;
            continue;
        }
        c->head[c->have++] = data[at++];
        if (c->have < 2) continue;
        int length = c->head[1] & 127, whole = length == 126 ? 4 : length == 127 ? 10 : 2;
        if (c->have < whole) continue;
        c->skip = (uint64_t)length;
        if (whole > 2) {
            c->skip = 0;
            for (int i = 2; i < whole; i++) c->skip = c->skip << 8 | c->head[i];
        }
        if ((c->head[0] & 15) == 8) {
            fprintf(stderr, "the server closed a connection\n");
            exit(1);
        }
        c->have = 0;
        if (!c->skip) frames++;
    }
    return frames;
}

static unsigned char *make_requests(const char *hex, int most, size_t *one) {
    size_t length = strlen(hex) / 2, header = length < 126 ? 6 : 8;
    *one = header + length;
    unsigned char *all = malloc(*one * (size_t)most + 1);
    unsigned char *frame = all;
    frame[0] = 0x82;
    if (length < 126) {
        frame[1] = 0x80 | (unsigned char)length;
    } else {
        frame[1] = 0xfe;
        frame[2] = (unsigned char)(length >> 8);
        frame[3] = (unsigned char)length;
    }
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    memcpy(frame + header - 4, mask, 4);
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        frame[header + i] = (unsigned char)byte ^ mask[i & 3];
    }
    for (int i = 1; i < most; i++) memcpy(all + (size_t)i * *one, frame, *one);
    return all;
}

static void send_requests(Connection *c, const unsigned char *requests, size_t one, int count) {
    size_t size = one * (size_t)count, done = 0;
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) c->sent[c->next++ % RING] = now;
    while (done < size) {
        ssize_t n = write(c->fd, requests + done, size - done);
        if (n < 0) fail("write");
        done += (size_t)n;
    }
}

int main(int argc, char **argv) {
    if (argc < 7) {
        fprintf(stderr, "usage: load PORT PATH CONNECTIONS DEPTH SECONDS REQUEST-HEX [fanout]\n");
        return 2;
    }
    int port = atoi(argv[1]), count = atoi(argv[3]), depth = atoi(argv[4]);
    double seconds = atof(argv[5]);
    int fanout = argc > 7;
    struct rlimit files = {(rlim_t)count + 100, (rlim_t)count + 100};
    setrlimit(RLIMIT_NOFILE, &files);
    Connection *connections = calloc((size_t)count + 1, sizeof *connections);
    int epoll = epoll_create1(0);
    for (int i = 0; i < count + fanout; i++) {
        connections[i].fd = open_connection(port, argv[2]);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    if (!depth) {
        printf("ready\n");
        fflush(stdout);
        usleep((useconds_t)(seconds * 1e6));
        return 0;
    }
    size_t one;
    unsigned char *requests = make_requests(argv[6], RING, &one);
    Connection *publisher = &connections[count];
    if (fanout) {
        send_requests(publisher, requests, one, depth);
    } else {
        for (int i = 0; i < count; i++) send_requests(&connections[i], requests, one, depth);
    }
    uint64_t begin = now_ns(), start = begin + 300000000u, end = start + (uint64_t)(seconds * 1e9);
    uint64_t messages = 0, wanted = (uint64_t)count * (uint64_t)depth, round = 0;
    int measuring = 0;
    static unsigned char data[1 << 18];
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, 1000);
        uint64_t now = now_ns();
        if (!measuring && now >= start) {
            measuring = 1;
            messages = 0;
            for (int i = 0; i < count; i++) connections[i].messages = 0;
            memset(histogram, 0, sizeof histogram);
            start = now;
            printf("start\n");
            fflush(stdout);
        }
        if (measuring && now >= end) break;
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            ssize_t size = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
            if (size < 0 && errno == EAGAIN) continue;
            if (size <= 0) {
                fprintf(stderr, "a connection ended\n");
                return 1;
            }
            int frames = count_frames(c, data, (uint64_t)size);
            if (fanout) {
                if (c == publisher) continue;
                now = now_ns();
                for (int f = 0; f < frames; f++) histogram[bucket_of((now - publisher->sent[0]) / 1000)]++;
                c->messages += (uint64_t)frames;
                messages += (uint64_t)frames;
                round += (uint64_t)frames;
                if (round == wanted) {
                    round = 0;
                    publisher->next = 0;
                    send_requests(publisher, requests, one, depth);
                }
            } else if (frames) {
                now = now_ns();
                for (int f = 0; f < frames; f++) histogram[bucket_of((now - c->sent[c->first++ % RING]) / 1000)]++;
                c->messages += (uint64_t)frames;
                messages += (uint64_t)frames;
                send_requests(c, requests, one, frames);
            }
        }
    }
    printf("stop\n");
    fflush(stdout);
    double took = (double)(now_ns() - start) / 1e9;
    uint64_t fewest = UINT64_MAX, most = 0, total = 0;
    for (int i = 0; i < count; i++) {
        if (connections[i].messages < fewest) fewest = connections[i].messages;
        if (connections[i].messages > most) most = connections[i].messages;
    }
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    printf("{\"messages\": %llu, \"seconds\": %.4f, \"fewest\": %llu, \"most\": %llu, \"p50\": %.0f, \"p99\": %.0f, \"max\": %.0f}\n",
           (unsigned long long)messages, took, (unsigned long long)fewest, (unsigned long long)most,
           percentile(0.5, total), percentile(0.99, total), percentile(1.0, total));
    return 0;
}
