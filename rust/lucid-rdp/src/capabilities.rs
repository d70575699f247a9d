//! Capability sets: what this host offers, and what it makes of what the client confirms.
//! Source: MS-RDPBCGR 2.2.7.

use ironrdp_acceptor::DesktopSize;
use ironrdp_pdu::rdp::capability_sets::{
    Bitmap, BitmapCodecs, BitmapDrawingFlags, CapabilitySet, CmdFlags, Codec, CodecProperty, EntropyBits,
    General, GeneralExtraFlags, Input, InputFlags, MultifragmentUpdate, Order, OrderFlags,
    OrderSupportExFlags, Pointer, RemoteFxContainer, SurfaceCommands, VirtualChannel, VirtualChannelFlags,
};

use crate::error::Refused;
use crate::pointer::Abilities;

/// The largest update that this host would take in one piece, and asks clients to take:
/// enough for every tile of a 4K desktop that RemoteFX cannot compress.
const MAX_REQUEST: u32 = 16 * 1024 * 1024;

/// What the server's Demand Active says.
pub(crate) fn offered(size: DesktopSize) -> Vec<CapabilitySet> {
    vec![
        CapabilitySet::General(General {
            extra_flags: GeneralExtraFlags::FASTPATH_OUTPUT_SUPPORTED
                | GeneralExtraFlags::AUTORECONNECT_SUPPORTED,
            refresh_rect_support: true,
            suppress_output_support: true,
            ..Default::default()
        }),
        CapabilitySet::Bitmap(Bitmap {
            pref_bits_per_pix: 32,
            desktop_width: size.width,
            desktop_height: size.height,
            desktop_resize_flag: true,
            drawing_flags: BitmapDrawingFlags::empty(),
        }),
        CapabilitySet::Order(Order::new(OrderFlags::empty(), OrderSupportExFlags::empty(), 2048, 224)),
        CapabilitySet::SurfaceCommands(SurfaceCommands { flags: CmdFlags::all() }),
        CapabilitySet::Pointer(Pointer { color_pointer_cache_size: 32, pointer_cache_size: 32 }),
        CapabilitySet::Input(Input {
            input_flags: InputFlags::SCANCODES
                | InputFlags::MOUSE_RELATIVE
                | InputFlags::MOUSEX
                | InputFlags::UNICODE
                | InputFlags::TS_MOUSE_HWHEEL
                | InputFlags::FASTPATH_INPUT
                | InputFlags::FASTPATH_INPUT_2,
            keyboard_layout: 0,
            keyboard_type: None,
            keyboard_subtype: 0,
            keyboard_function_key: 128,
            keyboard_ime_filename: String::new(),
        }),
        CapabilitySet::VirtualChannel(VirtualChannel {
            flags: VirtualChannelFlags::NO_COMPRESSION,
            chunk_size: None,
        }),
        CapabilitySet::MultiFragmentUpdate(MultifragmentUpdate { max_request_size: MAX_REQUEST }),
        CapabilitySet::BitmapCodecs(BitmapCodecs(vec![
            Codec { id: 0, property: CodecProperty::RemoteFx(RemoteFxContainer::ServerContainer(1)) },
            Codec { id: 0, property: CodecProperty::ImageRemoteFx(RemoteFxContainer::ServerContainer(1)) },
        ])),
    ]
}

/// RemoteFX as a client takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFx {
    /// The number by which the client knows the codec.
    pub(crate) codec_id: u8,
    /// The entropy coder it decodes.
    pub(crate) entropy: EntropyBits,
}

/// What a client can do, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// RemoteFX in surface commands.
    pub(crate) remotefx: Option<RemoteFx>,
    /// The largest fast-path update that it puts together, in bytes.
    pub(crate) max_update: usize,
    /// What it does with pointers.
    pub(crate) pointers: Abilities,
}

/// MS-RDPBCGR 2.2.7.2.6 is optional; without it a client takes one fast-path PDU.
const DEFAULT_MAX_UPDATE: usize = 16 * 1024;

/// Reads the client's Confirm Active.
pub(crate) fn confirmed(sets: &[CapabilitySet]) -> Result<Client, Refused> {
    let mut remotefx = None;
    let mut surface_commands = false;
    let mut max_update = DEFAULT_MAX_UPDATE;
    // Until the client says more: 2.2.7.1.5 is not optional, but a client without it can still be served.
    let mut pointers = Abilities { cache: 0, colour_cache: 1 };
    for set in sets {
        match set {
            CapabilitySet::General(general)
                if !general.extra_flags.contains(GeneralExtraFlags::FASTPATH_OUTPUT_SUPPORTED) =>
            {
                return Err(Refused::Capability("fast-path output"));
            }
            CapabilitySet::Pointer(pointer) => {
                pointers.cache = pointer.pointer_cache_size;
                pointers.colour_cache = pointer.color_pointer_cache_size;
            }
            CapabilitySet::SurfaceCommands(commands) => {
                surface_commands = commands.flags.contains(CmdFlags::SET_SURFACE_BITS);
            }
            CapabilitySet::MultiFragmentUpdate(update) => {
                max_update =
                    usize::try_from(update.max_request_size).unwrap_or(usize::MAX).max(DEFAULT_MAX_UPDATE);
            }
            CapabilitySet::BitmapCodecs(BitmapCodecs(codecs)) => {
                for codec in codecs {
                    if let CodecProperty::RemoteFx(RemoteFxContainer::ClientContainer(container))
                    | CodecProperty::ImageRemoteFx(RemoteFxContainer::ClientContainer(container)) =
                        &codec.property
                        && let Some(caps) = container.caps_data.0.0.last()
                    {
                        remotefx = Some(RemoteFx { codec_id: codec.id, entropy: caps.entropy_bits });
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Client {
        remotefx: remotefx.filter(|_| surface_commands),
        max_update: max_update.min(32 * 1024 * 1024),
        pointers,
    })
}
