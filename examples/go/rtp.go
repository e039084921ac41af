package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"time"
)

const (
	samples = 160 // of a packet
	margin  = 100 // packets, for data that was under way for long when its owner died
)

// tone is 1 kHz in G.711.
var tone = bytes.Repeat([]byte{0x1e, 0x0b, 0x0b, 0x1e, 0x9e, 0x8b, 0x8b, 0x9e}, samples/8)

// Stream is the RTP of a call whose data has an "ssrc". It goes on with that of examples/python/rtp.py, and the other way round.
type Stream struct {
	ssrc      uint32
	timestamp int64         // of the last packet
	at        time.Duration // when that was due
	begins    bool
}

// streamOf returns nil for a call without RTP.
func streamOf(data Data) (*Stream, error) {
	if data["ssrc"] == nil {
		return nil, nil
	}
	stream := &Stream{at: now(), begins: true}
	err := json.Unmarshal(data["ssrc"], &stream.ssrc)
	if err == nil {
		err = json.Unmarshal(data["timestamp"], &stream.timestamp)
	}
	return stream, err
}

// skip is for a call whose owner died some packets after it wrote its data. It returns by how much the sequence is to rise: no number
// is sent twice, and a gap is harmless. The timestamp goes on with the time.
func (s *Stream) skip(age time.Duration) int64 {
	since := int64(age/tick) + 1
	s.timestamp += since * samples
	return since + margin
}

// packet is that of this moment; what was due while nothing was sent is left out.
func (s *Stream) packet(sequence int64) []byte {
	steps := int64((now() - s.at + tick/2) / tick)
	if steps < 1 {
		steps = 1
	}
	s.at += time.Duration(steps) * tick
	s.timestamp += steps * samples
	packet := make([]byte, 12, 12+len(tone))
	packet[0] = 0x80
	if s.begins || steps > 5 { // the marker: the far end may start its jitter buffer anew
		packet[1], s.begins = 0x80, false
	}
	binary.BigEndian.PutUint16(packet[2:], uint16(sequence))
	binary.BigEndian.PutUint32(packet[4:], uint32(s.timestamp))
	binary.BigEndian.PutUint32(packet[8:], s.ssrc)
	return append(packet, tone...)
}
