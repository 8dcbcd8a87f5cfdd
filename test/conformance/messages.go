package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The messages of agent.proto in their JSON form, with the fields that this agent uses. Times and durations stay text: an agent has to
// repeat some to the digit.

type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid,omitempty"`
	Sig   []byte `json:"sig"`
}

type trustBundle struct {
	FleetID  string     `json:"fleetId"`
	Version  number     `json:"version"`
	IssuedAt string     `json:"issuedAt"`
	Keys     []trustKey `json:"keys"`
	ServerCA [][]byte   `json:"serverCa"`
	AgentCA  [][]byte   `json:"agentCa"`
}

type trustKey struct {
	SPKI []byte   `json:"spki"`
	Uses []string `json:"uses"`
}

type trustReply struct {
	Bundles []envelope `json:"bundles"`
}

type beacon struct {
	FleetID      string `json:"fleetId"`
	IssuedAt     string `json:"issuedAt"`
	TrustVersion number `json:"trustVersion"`
}

type assignment struct {
	Namespace  string `json:"namespace"`
	FleetID    string `json:"fleetId"`
	IdentityID string `json:"identityId"`
	IssuedAt   string `json:"issuedAt"`
	PolicyID   string `json:"policyId"`
}

type policy struct {
	FleetID           string `json:"fleetId"`
	PolicyID          string `json:"policyId"`
	Revision          number `json:"revision"`
	IssuedAt          string `json:"issuedAt"`
	HeartbeatInterval string `json:"heartbeatInterval"`

	DisabledActions []string `json:"disabledActions"`
}

type offer struct {
	FleetID   string     `json:"fleetId"`
	Namespace string     `json:"namespace"`
	Kind      string     `json:"kind"`
	Sequence  number     `json:"sequence"`
	Artifacts []artifact `json:"artifacts"`
}

type artifact struct {
	SHA256    string `json:"sha256"`
	Size      number `json:"size"`
	MediaType string `json:"mediaType"`
}

type releaseState struct {
	Sequence number `json:"sequence,omitempty"`
	Phase    string `json:"phase,omitempty"`
}

type action struct {
	FleetID        string   `json:"fleetId"`
	IdentityID     string   `json:"identityId"`
	ActionUID      string   `json:"actionUid"`
	IssuedAt       string   `json:"issuedAt"`
	ExpiresAt      string   `json:"expiresAt"`
	Requires       []string `json:"requires"`
	ActiveDeadline string   `json:"activeDeadline"`

	PerformHeartbeat *struct{} `json:"performHeartbeat"` // the one thing that this agent does
}

type cancel struct {
	FleetID        string `json:"fleetId"`
	IdentityID     string `json:"identityId"`
	ActionUID      string `json:"actionUid"`
	ActionDigest   string `json:"actionDigest"`
	ActionIssuedAt string `json:"actionIssuedAt"`
}

type actionResult struct {
	FleetID      string `json:"fleetId"`
	IdentityID   string `json:"identityId"`
	ActionUID    string `json:"actionUid"`
	ActionDigest string `json:"actionDigest"`
	Outcome      string `json:"outcome"`
	Reason       string `json:"reason"`
	Message      string `json:"message,omitempty"`
	StartedAt    string `json:"startedAt,omitempty"`
	FinishedAt   string `json:"finishedAt"`
}

type actionUpdate struct {
	ActionUID string    `json:"actionUid"`
	Phase     string    `json:"phase"`
	Percent   int       `json:"percent,omitempty"`
	Result    *envelope `json:"result,omitempty"`
}

type actionUpdates struct {
	Updates []actionUpdate `json:"updates"`
}

type actionState struct {
	ActionUID string `json:"actionUid"`
	Phase     string `json:"phase"`
}

type acks struct {
	Acks []ack `json:"acks"`
}

type ack struct {
	Problem *problem `json:"problem"`
}

type enrollment struct {
	FleetID      string `json:"fleetId"`
	TokenUID     string `json:"tokenUid"`
	CSR          []byte `json:"csr"`
	Hostname     string `json:"hostname"`
	MachineID    string `json:"machineId,omitempty"`
	AgentVersion string `json:"agentVersion"`
	CreatedAt    string `json:"createdAt,omitempty"`
}

type enrollRequest struct {
	Enrollment envelope `json:"enrollment"`
}

type renewal struct {
	FleetID     string `json:"fleetId"`
	IdentityID  string `json:"identityId"`
	Certificate []byte `json:"certificate"`
	CSR         []byte `json:"csr"`
	CreatedAt   string `json:"createdAt,omitempty"`
}

type renewRequest struct {
	Renewal envelope `json:"renewal"`
}

type certificateReply struct {
	Certificate []byte `json:"certificate"`
}

type agentInfo struct {
	Version    string `json:"version"`
	Platform   string `json:"platform"`
	InstanceID string `json:"instanceId"`
	Epoch      number `json:"epoch"`
	Session    number `json:"sessionNumber,omitempty"`
	MachineID  string `json:"machineId,omitempty"`

	JournalID        string `json:"journalId,omitempty"`
	JournalCreatedAt string `json:"journalCreatedAt,omitempty"`
}

type agentMessage struct {
	ID           number        `json:"id"`
	Heartbeat    *heartbeat    `json:"heartbeat,omitempty"`
	ActionUpdate *actionUpdate `json:"actionUpdate,omitempty"`
	Ping         *struct{}     `json:"ping,omitempty"`
}

type serverMessage struct {
	Re             number          `json:"re"`
	HeartbeatReply *heartbeatReply `json:"heartbeatReply"`
	Orders         *heartbeatReply `json:"orders"` // it has a part of the fields, with the same names
	Ack            *ack            `json:"ack"`
	Problem        *problem        `json:"problem"`
	Pong           *struct{}       `json:"pong"`
}

type heartbeat struct {
	Agent              *agentInfo    `json:"agent,omitempty"`
	SentAt             string        `json:"sentAt,omitempty"`
	TrustVersion       number        `json:"trustVersion,omitempty"`
	AssignmentIssuedAt string        `json:"assignmentIssuedAt,omitempty"`
	PolicyID           string        `json:"policyId,omitempty"`
	PolicyRevision     number        `json:"policyRevision,omitempty"`
	Content            *releaseState `json:"content,omitempty"`
	Vitals             *vitals       `json:"vitals,omitempty"`
	OpenActions        []actionState `json:"openActions,omitempty"`
	CapabilitiesTag    string        `json:"capabilitiesTag,omitempty"`
	Capabilities       *capabilities `json:"capabilities,omitempty"`
	InventoryTag       string        `json:"inventoryTag,omitempty"`
	Inventory          *inventory    `json:"inventory,omitempty"`
	ClockSkew          string        `json:"clockSkew,omitempty"`
	BeaconAge          string        `json:"beaconAge,omitempty"`
	RejectedOrders     number        `json:"rejectedOrders,omitempty"`
	LastRejection      string        `json:"lastRejection,omitempty"`
	SessionError       string        `json:"sessionError,omitempty"`
}

type vitals struct {
	Uptime string `json:"uptime,omitempty"`
}

type capabilities struct {
	Names []string `json:"names,omitempty"`
}

type inventory struct {
	Hostname   string             `json:"hostname,omitempty"`
	OSName     string             `json:"osName,omitempty"`
	Arch       string             `json:"arch,omitempty"`
	Interfaces []networkInterface `json:"interfaces,omitempty"`
}

type networkInterface struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"`
}

type heartbeatReply struct {
	ServerTime string     `json:"serverTime"`
	Beacon     *envelope  `json:"beacon"`
	Orders     []envelope `json:"orders"`
	More       bool       `json:"more"`
	Send       []string   `json:"send"`
	Gateway    string     `json:"gateway"`
}

type problem struct {
	Type       string   `json:"type"`
	Title      string   `json:"title"`
	Status     int      `json:"status"`
	Detail     string   `json:"detail"`
	RetryAfter number   `json:"retryAfter"`
	Minimum    string   `json:"minimum"`
	Supported  []string `json:"supported"`
}

// number is a 64-bit integer, which JSON has as text; numbers are read too.
type number uint64

func (n number) MarshalJSON() ([]byte, error) { //nolint:unparam // a json.Marshaler
	return strconv.AppendQuote(nil, strconv.FormatUint(uint64(n), 10)), nil
}

func (n *number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 64)
	*n = number(v)
	return err
}

func encode(m any) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", m, err)) // all of these types encode
	}
	return b
}

func parseTime(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) }

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + "s" }
