/* What the crate has to know of the kernel's header: where each field lies, and how large things are. bindgen turns the
 * constants into Rust. Structs would come with unions and flexible arrays, which take unsafe code to read; the ring is
 * read field by field anyway. */
#include <stddef.h>
#include <linux/target_core_user.h>

#define AT(name, type, field) static const unsigned int name = offsetof(struct type, field)
#define SIZE(name, type) static const unsigned int name = sizeof(struct type)

static const unsigned int MAILBOX_VERSION = TCMU_MAILBOX_VERSION;
static const unsigned int FLAG_OUT_OF_ORDER = TCMU_MAILBOX_FLAG_CAP_OOOC;
static const unsigned int FLAG_READ_LENGTH = TCMU_MAILBOX_FLAG_CAP_READ_LEN;

SIZE(MAILBOX_BYTES, tcmu_mailbox);
AT(MAILBOX_VERSION_AT, tcmu_mailbox, version);
AT(MAILBOX_FLAGS_AT, tcmu_mailbox, flags);
AT(MAILBOX_RING_AT, tcmu_mailbox, cmdr_off);
AT(MAILBOX_RING_BYTES_AT, tcmu_mailbox, cmdr_size);
AT(MAILBOX_HEAD_AT, tcmu_mailbox, cmd_head);
AT(MAILBOX_TAIL_AT, tcmu_mailbox, cmd_tail);

static const unsigned int OPERATION_PAD = TCMU_OP_PAD;
static const unsigned int OPERATION_COMMAND = TCMU_OP_CMD;
static const unsigned int OPERATION_MANAGEMENT = TCMU_OP_TMR;
static const unsigned int OPERATION_MASK = TCMU_OP_MASK;
static const unsigned int ENTRY_ALIGNMENT = TCMU_OP_ALIGN_SIZE;

SIZE(HEADER_BYTES, tcmu_cmd_entry_hdr);
AT(HEADER_LENGTH_AT, tcmu_cmd_entry_hdr, len_op);
AT(HEADER_ID_AT, tcmu_cmd_entry_hdr, cmd_id);
AT(HEADER_FLAGS_AT, tcmu_cmd_entry_hdr, uflags);
static const unsigned int ANSWER_UNKNOWN_OPERATION = TCMU_UFLAG_UNKNOWN_OP;
static const unsigned int ANSWER_READ_LENGTH = TCMU_UFLAG_READ_LEN;

SIZE(COMMAND_BYTES, tcmu_cmd_entry);
AT(COMMAND_VECTORS_AT, tcmu_cmd_entry, req.iov_cnt);
AT(COMMAND_CDB_AT, tcmu_cmd_entry, req.cdb_off);
AT(COMMAND_VECTOR_AT, tcmu_cmd_entry, req.iov);
SIZE(VECTOR_BYTES, iovec);
AT(VECTOR_LENGTH_AT, iovec, iov_len);

AT(ANSWER_STATUS_AT, tcmu_cmd_entry, rsp.scsi_status);
AT(ANSWER_LENGTH_AT, tcmu_cmd_entry, rsp.read_len);
AT(ANSWER_SENSE_AT, tcmu_cmd_entry, rsp.sense_buffer);
static const unsigned int ANSWER_SENSE_BYTES = TCMU_SENSE_BUFFERSIZE;

AT(MANAGEMENT_FUNCTION_AT, tcmu_tmr_entry, tmr_type);
AT(MANAGEMENT_COUNT_AT, tcmu_tmr_entry, cmd_cnt);
AT(MANAGEMENT_IDS_AT, tcmu_tmr_entry, cmd_ids);
static const unsigned int FUNCTION_LUN_RESET = TCMU_TMR_LUN_RESET;
static const unsigned int FUNCTION_WARM_RESET = TCMU_TMR_TARGET_WARM_RESET;
static const unsigned int FUNCTION_COLD_RESET = TCMU_TMR_TARGET_COLD_RESET;
