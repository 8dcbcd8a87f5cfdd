package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// BinEnv names the directory with the programs that `make test` has built.
const BinEnv = "ROLLCALL_TEST_BIN"

// Program is a binary that tests run.
type Program struct {
	Name, Package string
	// Flags of go build beside -race.
	Flags []string
}

// OldAgent is an agent that is too old for the websocket.
const OldAgent = "rollcall-agent-6.0.4"

// Programs are all that tests run: what is shipped, and some variations.
var Programs = []Program{
	{Name: "rollcall-manager", Package: "./cmd/manager"},
	{Name: "rollcall-gateway", Package: "./cmd/gateway"},
	{Name: "rollcall-agent", Package: "./cmd/agent"},
	{Name: "cytool", Package: "./cmd/cytool"},
	{Name: "fleetsim", Package: "./cmd/fleetsim"},
	{Name: "rollcall-relay", Package: "./test/relay/cmd"},
	{Name: "rollcall-rogue", Package: "./test/rogue/cmd"},
	{Name: "victim", Package: "./test/victim"},
	{Name: OldAgent, Package: "./cmd/agent", Flags: []string{"-ldflags=-X github.com/rollcall-dev/rollcall/internal/agent.Version=6.0.4"}},
	{Name: "rollcall-manager-faults", Package: "./cmd/manager", Flags: []string{"-tags=faults"}},
}

// BuildArgs are the go command's arguments that build p into a file.
func (p Program) BuildArgs(file string) []string {
	return append(append([]string{"build", "-race", "-o", file}, p.Flags...), p.Package)
}

var bin struct {
	sync.Mutex
	dir string
}

// Bin is the directory of the programs. Where `make test` has not built them, they are built now.
func Bin(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv(BinEnv); dir != "" {
		return dir
	}
	bin.Lock()
	defer bin.Unlock()
	if bin.dir == "" {
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("rollcall-test-bin-%d", os.Getuid()))
		for _, p := range Programs {
			cmd := exec.CommandContext(t.Context(), "go", p.BuildArgs(filepath.Join(dir, p.Name))...)
			cmd.Dir = Root()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("build %s: %v\n%s", p.Name, err, out)
			}
		}
		bin.dir = dir
	}
	return bin.dir
}
