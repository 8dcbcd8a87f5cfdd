package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"strconv"
	"testing"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Authors of other agents rely on the table of problems in the document.
func TestDocumentedProblems(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[Name]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]{3}) \\|").FindAllSubmatch(doc, -1) {
		name := Name(m[1])
		documented[name] = true
		if known, ok := problems[name]; !ok || strconv.Itoa(known.status) != string(m[2]) {
			t.Errorf("the document has %s with status %s, the table %v", name, m[2], known)
		}
	}
	for name := range problems {
		if !documented[name] {
			t.Errorf("%s is not in the document", name)
		}
	}
	example := regexp.MustCompile("(?s)```json problem\n(.*?)\n```").FindSubmatch(doc)
	if example == nil {
		t.Fatal("the document has no example of a problem")
	}
	if p, ok := ParseProblem(429, "application/problem+json", example[1]); !ok || p.Name != Throttled || p.RetryAfter.Seconds() != 30 {
		t.Errorf("the document's example is read as %+v, %v", p, ok)
	}
}

// Nor may the table of close codes and the code drift apart.
func TestDocumentedCloseCodes(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[CloseCode]bool{CloseNoStatus: true, CloseAbnormal: true} // never sent
	reasons := regexp.MustCompile("`([a-z-]+)`")
	for _, m := range regexp.MustCompile(`(?m)^\| ([14][0-9]{3})(?:, ([0-9]{4}))? \|([^|]*)\|`).FindAllSubmatch(doc, -1) {
		code, _ := strconv.ParseUint(string(m[1]), 10, 16)
		second, _ := strconv.ParseUint(string(m[2]), 10, 16)
		documented[CloseCode(code)], documented[CloseCode(second)] = true, true
		for _, reason := range reasons.FindAllSubmatch(m[3], -1) {
			if name := Name(reason[1]); closeCodes[name] != CloseCode(code) && codeNames[CloseCode(code)] != name {
				t.Errorf("the document has %s with the code %d, the table %d", name, code, closeCodes[name])
			}
		}
	}
	for name, code := range closeCodes {
		if !documented[code] {
			t.Errorf("%d, of %s, is not in the document", code, name)
		}
	}
	for code, name := range codeNames {
		if !documented[code] {
			t.Errorf("%d, which stands for %s, is not in the document", code, name)
		}
	}
}

func TestDocumentedMessages(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(name string) (*agentv1.AgentMessage, *agentv1.ServerMessage) {
		example := regexp.MustCompile("(?s)```json " + name + "\n(.*?)\n(.*?)\n```").FindSubmatch(doc)
		if example == nil {
			t.Fatalf("the document has no example %q of messages", name)
		}
		agent, server := &agentv1.AgentMessage{}, &agentv1.ServerMessage{}
		if err := errors.Join(JSON.Unmarshal(example[1], agent), CheckAgentMessage(agent), JSON.Unmarshal(example[2], server), CheckServerMessage(server)); err != nil {
			t.Error(err)
		}
		if server.GetRe() != agent.GetId() {
			t.Errorf("message %d is answered by one to %d", agent.GetId(), server.GetRe())
		}
		return agent, server
	}
	if agent, server := exchange("session"); agent.GetHeartbeat().GetAgent().GetSessionNumber() != 1 || server.GetHeartbeatReply() == nil {
		t.Errorf("the example is read as %v and %v", agent, server)
	}
	agent, server := exchange("update")
	if agent.GetActionUpdate().GetPhase() != agentv1.ActionPhase_ACTION_PHASE_RUNNING || server.GetAck() == nil || server.GetAck().GetProblem() != nil {
		t.Errorf("the example is read as %v and %v", agent, server)
	}
}

func TestDocumentedAction(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	payload := func(name string) []byte {
		example := regexp.MustCompile("```json " + name + " payload\n(.*)\n").FindSubmatch(doc)
		if example == nil {
			t.Fatalf("the document has no example of the payload of an %s", name)
		}
		return example[1]
	}
	order := payload("action")
	var action agentv1.Action
	var result agentv1.ActionResult
	if err := errors.Join(JSON.Unmarshal(order, &action), CheckAction(&action), JSON.Unmarshal(payload("result"), &result), CheckActionResult(&result)); err != nil {
		t.Error(err)
	}
	if digest := sha256.Sum256(order); action.GetTerminateProcess() == nil || result.GetOutcome() != agentv1.Outcome_OUTCOME_SUCCEEDED ||
		result.GetActionUid() != action.GetActionUid() || result.GetActionDigest() != hex.EncodeToString(digest[:]) {
		t.Errorf("the example is read as %v and %v", &action, &result)
	}
	for m, payload := range map[Message][]byte{&action: order, &result: payload("result")} {
		if again, err := JSON.Marshal(m); err != nil || !bytes.Equal(again, payload) {
			t.Errorf("the document has %s, we make %s (%v)", payload, again, err)
		}
	}
}
