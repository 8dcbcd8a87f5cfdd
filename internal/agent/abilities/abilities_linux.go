package abilities

import (
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/agent/terminate"
)

// OfThisMachine are the types of action that can be done here.
func OfThisMachine() perform.Executors {
	all := perform.Executors{}
	if x := terminate.New(); x != nil {
		all["TerminateProcess"] = x
	}
	return all
}
