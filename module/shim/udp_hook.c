// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The netfilter hook: requests are answered where packets come in, after the host's filter has let them pass.
 *
 * It takes what is plain: a whole datagram with a good checksum, without options, for one of this host's own unicast
 * addresses. Everything else goes on to the socket (udp_socket.c), as does the first packet of a tracked flow: its
 * entry is only confirmed at the end of this chain, and without it the reply would not be known as one.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/udp.h>
#include <net/ip.h>
#include <net/ipv6.h>
#if IS_ENABLED(CONFIG_NF_CONNTRACK)
#include <net/netfilter/nf_conntrack.h>
#endif
#include "shim.h"

static __be16 port;
static bool to_workers;
static struct ub_address bound;

static bool is_new_flow(const struct sk_buff *skb)
{
#if IS_ENABLED(CONFIG_NF_CONNTRACK)
	enum ip_conntrack_info info;
	const struct nf_conn *flow = nf_ct_get(skb, &info);

	return flow && !nf_ct_is_confirmed(flow);
#else
	return false;
#endif
}

/* The datagram behind `offset` bytes, if it is one for us; its header is then the packet's transport header. */
static bool is_request(struct sk_buff *skb, unsigned int offset)
{
	const struct udphdr *udp;

	if (skb->pkt_type != PACKET_HOST || skb_is_gso(skb) || !pskb_may_pull(skb, offset + sizeof(*udp)))
		return false;
	udp = (const struct udphdr *)(skb->data + offset);
	if (udp->dest != port || ntohs(udp->len) != skb->len - offset)
		return false;
	if (is_new_flow(skb) || skb_linearize(skb))
		return false;
	skb_set_transport_header(skb, offset);
	return true;
}

static unsigned int serve(struct sk_buff *skb, const struct nf_hook_state *state, unsigned int offset)
{
	ub_count(udp_hooked);
	if (to_workers) {
		if (ub_udp_workers_queue(skb, state, offset + sizeof(struct udphdr)))
			return NF_STOLEN;
		ub_count(udp_dropped_queue);
		return NF_DROP;
	}
	ub_udp_serve(state->net, skb, state->in ? state->in->ifindex : 0);
	consume_skb(skb);
	return NF_STOLEN;
}

static unsigned int hook_ipv4(void *unused, struct sk_buff *skb, const struct nf_hook_state *state)
{
	const struct iphdr *ip = ip_hdr(skb);
	unsigned int offset = sizeof(*ip);

	if (bound.family && (bound.family != AF_INET || bound.address.s6_addr32[3] != ip->daddr))
		return NF_ACCEPT;
	if (ip->protocol != IPPROTO_UDP || ip->ihl * 4 != offset || ip_is_fragment(ip) ||
	    ipv4_is_multicast(ip->daddr) || !is_request(skb, offset))
		return NF_ACCEPT;
	if (udp_hdr(skb)->check && nf_ip_checksum(skb, state->hook, offset, IPPROTO_UDP))
		return NF_ACCEPT;
	return serve(skb, state, offset);
}

#if IS_ENABLED(CONFIG_IPV6)
static unsigned int hook_ipv6(void *unused, struct sk_buff *skb, const struct nf_hook_state *state)
{
	const struct ipv6hdr *ip = ipv6_hdr(skb);
	unsigned int offset = sizeof(*ip);

	if (bound.family && (bound.family != AF_INET6 || !ipv6_addr_equal(&bound.address, &ip->daddr)))
		return NF_ACCEPT;
	if (ip->nexthdr != IPPROTO_UDP || ipv6_addr_is_multicast(&ip->daddr) || !is_request(skb, offset))
		return NF_ACCEPT;
	if (!udp_hdr(skb)->check || nf_ip6_checksum(skb, state->hook, offset, IPPROTO_UDP))
		return NF_ACCEPT;
	return serve(skb, state, offset);
}
#endif

/* After the filter and after addresses have been translated, before what counts as delivered. */
#define AFTER_FILTER (NF_IP_PRI_NAT_SRC + 1)

static const struct nf_hook_ops hooks[] = {
	{ .hook = hook_ipv4, .pf = NFPROTO_IPV4, .hooknum = NF_INET_LOCAL_IN, .priority = AFTER_FILTER },
#if IS_ENABLED(CONFIG_IPV6)
	{ .hook = hook_ipv6, .pf = NFPROTO_IPV6, .hooknum = NF_INET_LOCAL_IN, .priority = AFTER_FILTER },
#endif
};

void ub_hook_prepare(const struct ub_parameters *parameters)
{
	port = htons(parameters->port);
	bound = parameters->address;
	to_workers = parameters->udp_workers > 0;
}

int ub_hook_start(struct net *net)
{
	int error = nf_register_net_hooks(net, hooks, ARRAY_SIZE(hooks));

	if (error)
		pr_err("cannot register with netfilter: error %d\n", error);
	return error;
}

void ub_hook_stop(struct net *net)
{
	nf_unregister_net_hooks(net, hooks, ARRAY_SIZE(hooks));
	/* Whoever is still inside has left when this returns. */
	synchronize_net();
}
