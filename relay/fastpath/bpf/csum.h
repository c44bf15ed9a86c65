/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VPNMASQ_CSUM_H
#define VPNMASQ_CSUM_H

#include <linux/ip.h>
#include <linux/types.h>

/* The ones' complement sum of an IP header without options (RFC 1071); 0xffff when its checksum is right. */
static __always_inline __u16 ip_sum(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 5; i++)
		sum += words[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

#endif
