/* Both ends of brief TCP connections, for scripts/bench dataplane: what remains to be measured
 * is the data plane between them.
 *
 * Each packet that arrives is answered by at most one, which is all a connection needs: SYN, the
 * handshake's end with a request, an answer that also ends the connection, and the end of the other
 * side. When the last packet of a connection comes, its lane opens the next one, from its next
 * port. So neither end has a socket, wakes anybody or remembers anything: a sequence number begins
 * at a multiple of 64, and its low bits say how far a connection is. No packet is sent twice: a
 * lane that loses one stands still, and so does one that is reset.
 *
 * Only IPv4 without options; packets of other ports pass. halbctl/lab/ends.py loads it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>

#define SECTION(name) __attribute__((section(name), used))
#define ALWAYS static inline __attribute__((always_inline))

static long (*adjust_tail)(struct xdp_md *, int) = (void *)BPF_FUNC_xdp_adjust_tail;
static __s64 (*add_up)(void *, __u32, void *, __u32, __u32) = (void *)BPF_FUNC_csum_diff;
static __u64 (*nanoseconds)(void) = (void *)BPF_FUNC_ktime_get_ns;

/* halbctl/lab/ends.py gives PORT, LANES, FIRST_PORT and PAYLOAD. */
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, HOP_LIMIT = 64, WINDOW = 65000 };
/* What the sender of PAYLOAD bytes has got acknowledged once its FIN is: SYN and FIN count. */
#define ALL_OF_IT (1 + PAYLOAD + 1)

struct frame {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct pseudo {
	__be32 from, to;
	__u8 zero, protocol;
	__be16 length;
};

struct segment {
	__u32 sequence, acknowledged, length;
	__u16 from, to;
	__u8 flags;
};

ALWAYS __u16 swap16(__u16 value) { return __builtin_bswap16(value); }
ALWAYS __u32 swap32(__u32 value) { return __builtin_bswap32(value); }

ALWAYS __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

ALWAYS struct frame *frame_of(struct xdp_md *packet)
{
	struct frame *frame = (void *)(long)packet->data;

	if ((void *)(frame + 1) > (void *)(long)packet->data_end)
		return 0;
	if (frame->ethernet.h_proto != swap16(ETH_P_IP) || frame->ip.protocol != IPPROTO_TCP)
		return 0;
	return frame->ip.ihl == 5 ? frame : 0;
}

ALWAYS struct segment segment_of(const struct frame *frame)
{
	struct segment found = {
		.sequence = swap32(frame->tcp.seq),
		.acknowledged = swap32(frame->tcp.ack_seq),
		.length = swap16(frame->ip.tot_len) - sizeof(struct iphdr) - frame->tcp.doff * 4,
		.from = swap16(frame->tcp.source),
		.to = swap16(frame->tcp.dest),
		.flags = ((const __u8 *)&frame->tcp)[13],
	};
	return found;
}

/* Send the packet back to where it came from, as another segment; from is a port. */
ALWAYS int answer(struct xdp_md *packet, __u8 flags, __u32 sequence, __u32 acknowledged, __u16 from)
{
	int payload = flags & PSH ? PAYLOAD : 0, size = sizeof(struct frame) + payload;

	if (adjust_tail(packet, size - (int)(packet->data_end - packet->data)))
		return XDP_DROP;
	struct frame *frame = (void *)(long)packet->data;
	if ((void *)(frame + 1) + payload > (void *)(long)packet->data_end)
		return XDP_DROP;

	__u8 hardware[ETH_ALEN];
	__builtin_memcpy(hardware, frame->ethernet.h_dest, ETH_ALEN);
	__builtin_memcpy(frame->ethernet.h_dest, frame->ethernet.h_source, ETH_ALEN);
	__builtin_memcpy(frame->ethernet.h_source, hardware, ETH_ALEN);

	struct iphdr *ip = &frame->ip;
	__be32 source = ip->daddr, destination = ip->saddr;
	__be16 port = frame->tcp.source;
	__builtin_memset(ip, 0, sizeof(*ip) + sizeof(struct tcphdr) + payload);
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = swap16(size - sizeof(struct ethhdr));
	ip->frag_off = swap16(0x4000); /* not to be fragmented */
	ip->ttl = HOP_LIMIT;
	ip->protocol = IPPROTO_TCP;
	ip->saddr = source;
	ip->daddr = destination;
	ip->check = folded(add_up(0, 0, ip, sizeof(*ip), 0));

	struct tcphdr *tcp = &frame->tcp;
	int length = sizeof(*tcp) + payload;
	tcp->source = swap16(from);
	tcp->dest = port;
	tcp->seq = swap32(sequence);
	tcp->ack_seq = swap32(acknowledged);
	tcp->doff = 5;
	((__u8 *)tcp)[13] = flags;
	tcp->window = swap16(WINDOW);
	struct pseudo pseudo = {source, destination, 0, IPPROTO_TCP, swap16(length)};
	tcp->check = folded(add_up(0, 0, tcp, length, add_up(0, 0, &pseudo, sizeof(pseudo), 0)));
	return XDP_TX;
}

/* 64 for each 16 microseconds: larger each time that a port is used again within nine minutes. */
ALWAYS __u32 first_sequence(void) { return nanoseconds() >> 14 << 6; }

SECTION("xdp/client") int client(struct xdp_md *packet)
{
	struct frame *frame = frame_of(packet);
	if (!frame || frame->tcp.source != swap16(PORT))
		return XDP_PASS;
	struct segment got = segment_of(frame);

	if (got.flags & RST)
		return XDP_DROP;
	if (got.flags & SYN)
		return answer(packet, ACK | PSH, got.acknowledged, got.sequence + 1, got.to);
	if (got.flags & FIN)
		return answer(packet, ACK | FIN, got.acknowledged, got.sequence + got.length + 1, got.to);
	if (got.length || (got.acknowledged & 63) != ALL_OF_IT)
		return XDP_DROP;
	__u32 next = got.to + LANES;
	if (next > 65535)
		next = FIRST_PORT + got.to % LANES;
	return answer(packet, SYN, first_sequence(), 0, next);
}

SECTION("xdp/gateway") int gateway(struct xdp_md *packet)
{
	struct frame *frame = frame_of(packet);
	if (!frame || frame->tcp.dest != swap16(PORT))
		return XDP_PASS;
	struct segment got = segment_of(frame);
	__u32 next = got.sequence + got.length;

	if (got.flags & RST)
		return XDP_DROP;
	if (got.flags & SYN)
		return answer(packet, SYN | ACK, first_sequence(), next + 1, PORT);
	if (got.flags & FIN)
		return answer(packet, ACK, got.acknowledged, next + 1, PORT);
	if (got.length)
		return answer(packet, ACK | PSH | FIN, got.acknowledged, next, PORT);
	return XDP_DROP;
}

/* Some helpers are only for programs under a licence that the kernel's goes with. */
char licence[] SECTION("license") = "GPL";
