package main

import (
	"context"
	"hash/fnv"
	"net/netip"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/host"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// machine is a machine that is made up, but for its clocks. What it says depends on its name alone.
type machine struct {
	*host.Machine
	name string
}

// systems that a fleet is made of.
var systems = []struct{ name, version, kernel, model string }{
	{"debian", "13.1", "6.12.41-amd64", "ThinkPad X1 Carbon Gen 12"},
	{"ubuntu", "24.04", "6.8.0-71-generic", "PowerEdge R660"},
	{"rhel", "10.0", "6.12.0-55.el10.x86_64", "ProLiant DL360 Gen11"},
	{"opensuse-leap", "16.0", "6.12.0-160000.5-default", "OptiPlex 7020"},
}

func (m *machine) number() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(m.name)) // never fails
	return h.Sum32()
}

func (m *machine) IDs() (string, string) {
	return identity.HashMachineID("machine " + m.name), identity.HashMachineID("boot " + m.name)
}

func (m *machine) Hostname() string { return m.name }

func (m *machine) Inventory(context.Context) *agentv1.Inventory {
	n := m.number()
	os := systems[n%uint32(len(systems))] //nolint:gosec // four
	return &agentv1.Inventory{
		Hostname: m.name, OsName: os.name, OsVersion: os.version, Kernel: os.kernel, Model: os.model, Arch: "amd64",
		CpuModel: "simulated", CpuCount: 2 << (n >> 8 % 4), MemoryTotal: 4 << 30 << (n >> 16 % 4),
		BootTime: timestamppb.New(m.BootTime()),
		Interfaces: []*agentv1.NetworkInterface{{
			Name: "eth0", Addresses: []string{address(n)},
		}},
		Disks: []*agentv1.Disk{{Mount: "/", Filesystem: "ext4", Total: 256 << 30, Free: 128 << 30}},
	}
}

func (m *machine) Vitals(context.Context) *agentv1.Vitals {
	return &agentv1.Vitals{
		Uptime: durationpb.New(m.Clock().Boot), MemoryTotal: 4 << 30, MemoryAvailable: 2 << 30, DiskTotal: 256 << 30, DiskFree: 128 << 30, Load1: 0.1,
	}
}

// address is one of 198.18.0.0/15, the networks that are set aside for benchmarks (RFC 2544).
func address(n uint32) string {
	return netip.AddrFrom4([4]byte{198, 18 + byte(n>>16&1), byte(n >> 8), byte(n)}).String() //nolint:gosec // bytes of it
}
