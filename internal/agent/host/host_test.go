package host

import (
	"os"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// What this very machine says is within the protocol's bounds, and true where a test can tell.
func TestThisMachine(t *testing.T) {
	m := This(t.Context(), t.TempDir())
	machine, boot := m.IDs()
	inventory, vitals := m.Inventory(t.Context()), m.Vitals(t.Context())
	beat := &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{
			Version: "8.0.0", Platform: Platform, InstanceId: strings.Repeat("0", 32), Epoch: 1, MachineId: machine, BootId: boot,
		},
		Inventory: inventory, Vitals: vitals,
	}
	if err := wire.CheckHeartbeat(beat); err != nil {
		t.Error(err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if inventory.GetHostname() != name || inventory.GetOsName() == "" || inventory.GetKernel() == "" || inventory.GetCpuCount() == 0 {
		t.Errorf("inventory %v", inventory)
	}
	if vitals.GetMemoryTotal() == 0 || vitals.GetMemoryAvailable() > vitals.GetMemoryTotal() || vitals.GetDiskTotal() == 0 || vitals.GetUptime().AsDuration() <= 0 {
		t.Errorf("vitals %v", vitals)
	}
	if r := m.Clock(); time.Since(r.Wall) > time.Minute || r.Boot <= 0 {
		t.Errorf("clock %v", r)
	}
	if raw, err := os.ReadFile("/etc/machine-id"); err == nil && strings.Contains(machine, strings.TrimSpace(string(raw))) {
		t.Error("the machine's ID is told as it is")
	}
}
